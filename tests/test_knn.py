"""Nearest neighbours against lightly's, by one and several label columns."""

import datasets
import numpy as np
import pytest
import torch
from lightly.utils.benchmarking import LinearClassifier, knn_predict
from PIL import Image

from eval.knn import evaluate, main
from eval.linear_probe import main as probe
from eval.main import main as evaluate_suite
from eval.models import ScoredModel
from eval.scores import read_scores
from eval.tasks.knn import predict
from mcl_clip import load
from mcl_clip.errors import UserError
from mcl_clip.fusion.fused_images import FusedImages
from mcl_clip.fusion.stages import Stage
from mcl_clip.models.stage_model import save_stage_model
from tests.test_image_model import PREPROCESS, configuration, image_model


def unit(count: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_votes_are_lightlys(monkeypatch):
    monkeypatch.setattr("eval.tasks.knn.BLOCK", 60 * 7)  # of several blocks
    train, test = unit(60, 0), unit(25, 1)
    labels = np.random.default_rng(2).integers(0, 4, 60)
    found = predict(torch.from_numpy(train), labels, torch.from_numpy(test), (1, 5, 200))
    for count, each in found.items():
        bank = torch.from_numpy(train).T, torch.from_numpy(labels)
        theirs = knn_predict(torch.from_numpy(test), *bank, num_classes=4, knn_k=min(count, 60), knn_t=0.1)
        assert each.tolist() == theirs[:, 0].tolist()
    assert np.array_equal(found[1], labels[(test @ train.T).argmax(1)])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A data set saved to disk: plain images whose brightness and red are two labels."""
    directory = tmp_path_factory.mktemp("table")
    splits = {}
    for split, count in (("train", 40), ("test", 24)):
        rng = np.random.default_rng(count)
        rows = {"image": [], "light": [], "red": []}
        for _ in range(count):
            light, red = rng.integers(0, 2, 2)
            pixels = np.full((32, 32, 3), 60 + 100 * light) + rng.normal(0, 4, (32, 32, 3))
            pixels[:, :16, 0] = 250 * red
            rows["image"].append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
            rows["light"].append("light" if light else "dark")
            rows["red"].append(int(red))
        features = datasets.Features(
            image=datasets.Image(), light=datasets.Value("string"), red=datasets.Value("int64")
        )
        splits[split] = datasets.Dataset.from_dict(rows, features)
    datasets.DatasetDict(splits).save_to_disk(directory / "set")
    return directory / "set"


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stages")
    for seed in (0, 1):
        model = image_model(seed)
        cfg = configuration() | {"features": {"dim": 96}, "embed_dim": 96}
        save_stage_model(model, directory / str(seed), model_cfg=cfg, preprocess_cfg=PREPROCESS)
    return f"{directory}/0,{directory}/1"


@pytest.mark.parametrize(("command", "metric"), [(main, "knn20_acc1"), (probe, "lp_acc1")])
def test_several_label_columns_are_scored_on_one_embedding(table, stages, tmp_path, command, metric, capsys):
    flags = ["--model", stages, "--dataset", str(table), "--device", "cpu"]
    assert command([*flags, "--label-column", "light,red", "--output", str(tmp_path / "both.json")]) == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert f"{metric}/red" in header.split() and len(set(header.split())) == len(header.split())
    both = read_scores(tmp_path / "both.json")
    assert [row["model"] for row in both] == ["stage_0", "stage_1", "fused"]
    alone = {}
    for column in ("light", "red"):
        assert command([*flags, "--label-column", column, "--output", str(tmp_path / "one.json")]) == 0
        alone[column] = read_scores(tmp_path / "one.json")
    for place, row in enumerate(both):
        for column, results in alone.items():
            assert row["metrics"][f"{metric}/{column}"] == results[place]["metrics"][metric]
            assert row["intervals"][f"{metric}/{column}"] == results[place]["intervals"][metric]
        mean = np.mean([results[place]["metrics"][metric] for results in alone.values()])
        assert row["metrics"][metric] == pytest.approx(mean)
        low, high = row["intervals"][metric]
        assert low <= mean <= high
    assert all(row["metrics"][f"{metric}/light"] > 0.9 for row in both)


def test_mcl_evals_table_shows_the_neighbours_and_means_that_there_are(table, stages, tmp_path, capsys):
    (tmp_path / "suite.yaml").write_text(
        f"tasks: [{{knn: {table}, name: five, neighbours: 5, label-column: red}},"
        f" {{knn: {table}, name: two, neighbours: [1, 5], label-column: 'light,red'}},"
        f" {{linear-probe: {table}, name: probe, label-column: 'light,red'}}]"
    )
    suite = ["--suite", str(tmp_path / "suite.yaml"), "--output", str(tmp_path / "out")]
    assert evaluate_suite(["--model", stages, "--device", "cpu", *suite]) == 0
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[:2] for line in lines] == [
        ["five", "knn5_acc1"],
        ["two", "knn1_acc1"],
        ["two", "knn5_acc1"],
        ["probe", "lp_acc1"],
    ]
    assert all(line[2] != "-" for line in lines)


def test_lightlys_classifiers_run_on_the_fused_module(table, stages):
    fused, preprocess, _ = load(stages)
    assert isinstance(fused, FusedImages) and all(isinstance(stage, Stage) for stage in fused.stage_info)
    rows = {
        split: [(preprocess(row["image"].convert("RGB")), row["red"]) for row in each]
        for split, each in datasets.load_from_disk(str(table)).items()
    }
    images, labels = {}, {}
    for split, each in rows.items():
        images[split], labels[split] = torch.stack([image for image, _ in each]), torch.tensor([red for _, red in each])
    classifier = LinearClassifier(fused, batch_size_per_device=8, feature_dim=fused.visual.output_dim, num_classes=2)
    logits = classifier(images["train"])
    assert logits.shape == (40, 2)
    torch.nn.functional.cross_entropy(logits, labels["train"]).backward()
    assert classifier.classification_head.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in fused.parameters())
    with torch.no_grad():
        bank, queries = (torch.nn.functional.normalize(fused(images[split]), dim=1) for split in ("train", "test"))
    theirs = knn_predict(queries, bank.T.contiguous(), labels["train"], num_classes=2, knn_k=20)[:, 0]
    ours = predict(bank, labels["train"].numpy(), queries, (20,))[20]
    assert ours.tolist() == theirs.tolist()


def test_nothing_to_compare_is_refused(stages):
    scored = ScoredModel(*load(stages), "m")
    with pytest.raises(UserError, match="--neighbours"):
        evaluate(scored, None, None, neighbours=())
    with pytest.raises(UserError, match="--temperature"):
        evaluate(scored, None, None, temperature=0)
