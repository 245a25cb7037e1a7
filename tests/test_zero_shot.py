"""Zero-shot classification: the same numbers as open_clip's own pieces, on every kind of data set."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import mcl_clip
from eval.classification_data import ClassificationSet, open_set, read_templates
from eval.models import ScoredModel
from eval.zero_shot import evaluate, main
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from tests.distributed import run_ranks
from tests.tiny_models import TINY, tiny_model

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> str:
    directories = []
    for seed in range(2):
        directory = tmp_path_factory.mktemp("stage") / str(seed)
        model = tiny_model("vit", seed)
        save_stage_model(model, directory, model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
        directories.append(str(directory))
    return ",".join(directories)


def picture(label: int, number: int) -> Image.Image:
    rng = np.random.default_rng((label, number))
    return Image.fromarray(rng.integers(0, 255, (24, 20, 3), np.uint8))


def encoded(label: int, number: int) -> bytes:
    buffer = io.BytesIO()
    picture(label, number).save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(directory: Path, per_class: int = 3) -> Path:
    for label, name in enumerate(CLASSES):
        (directory / "test" / name).mkdir(parents=True)
        for number in range(per_class):
            (directory / "test" / name / f"{number}.png").write_bytes(encoded(label, number))
    (directory / "templates.txt").write_text("a photo of a {}\nno {c}\n")
    return directory


def scored(spec: str) -> ScoredModel:
    return ScoredModel(*mcl_clip.load(spec), name=spec)


def values(results: list[dict]) -> dict[str, dict]:
    return {row["model"]: row["metrics"] for row in results}


def test_equals_open_clips_classifier(tmp_path, stages) -> None:
    data = open_set(str(class_folders(tmp_path)))
    found = values(evaluate(scored(stages), data, batch_size=5, confusion=True))
    model, preprocess, tokenizer = mcl_clip.load(stages)
    samples = list(data.samples())
    images = torch.stack([preprocess(image) for image, _ in samples])
    labels = torch.tensor([label for _, label in samples])
    templates = [lambda name: f"a photo of a {name}", lambda name: f"no {name}"]
    for row, subset in (("stage_0", [0]), ("stage_1", [1]), ("fused", [0, 1])):
        part = model.subset(subset)
        weights = open_clip.build_zero_shot_classifier(part, tokenizer, CLASSES, templates, 2)
        with torch.no_grad():
            ranked = (part.encode_image(images, normalize=True) @ weights).argsort(descending=True)
        assert found[row]["acc1"] == pytest.approx((ranked[:, 0] == labels).float().mean().item())
        assert found[row]["acc5"] == pytest.approx((ranked[:, :5] == labels[:, None]).any(1).float().mean().item())
        recalls = [(ranked[labels == c, 0] == c).float().mean().item() for c in range(len(CLASSES))]
        assert found[row]["mean_per_class_recall"] == pytest.approx(np.mean(recalls))
        assert found[row]["per_class_recall"] == pytest.approx(recalls)
        matrix = np.array(found[row]["confusion_matrix"])
        assert matrix.sum() == len(samples) and matrix.trace() / matrix.sum() == pytest.approx(found[row]["acc1"])
        assert found[row]["acc1_low"] <= found[row]["acc1"] <= found[row]["acc1_high"]


def test_acc5_is_null_below_five_classes(tmp_path, stages) -> None:
    data = open_set(str(class_folders(tmp_path)))
    few = ClassificationSet(
        "few", CLASSES[:2], data.templates, 6, lambda first=0, step=1: iter(list(data.samples())[first:6:step])
    )
    assert all(row["acc5"] is None for row in values(evaluate(scored(stages), few)).values())


def test_every_layout_gives_the_same_scores(tmp_path, stages) -> None:
    import datasets

    folders = class_folders(tmp_path / "folders")
    templates = str(folders / "templates.txt")
    wanted = values(evaluate(scored(stages), open_set(str(folders))))

    rows = [(label, number) for label in range(len(CLASSES)) for number in range(3)]
    table = datasets.Dataset.from_dict(
        {"image": [{"bytes": encoded(*row), "path": None} for row in rows], "label": [row[0] for row in rows]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}),
    )
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "parquet").mkdir()
    table.to_parquet(tmp_path / "parquet" / "test.parquet")

    webdataset = tmp_path / "webdataset"
    (webdataset / "test").mkdir(parents=True)
    (webdataset / "classnames.txt").write_text("\n".join(CLASSES))
    (webdataset / "zeroshot_classification_templates.txt").write_text(Path(templates).read_text())
    (webdataset / "test" / "nshards.txt").write_text("2")
    for shard in range(2):
        with tarfile.open(webdataset / "test" / f"{shard}.tar", "w") as tar:
            for label, number in rows[shard::2]:
                for suffix, data in (("png", encoded(label, number)), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{label}_{number}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

    for name in ("saved", "parquet", "webdataset"):
        data = open_set(str(tmp_path / name), templates=templates)
        assert (data.classnames, data.size) == (CLASSES, len(rows)), name
        assert values(evaluate(scored(stages), data)) == wanted, name


def test_command_writes_what_clip_benchmark_reads(tmp_path, stages, capsys) -> None:
    folders, output, directory = class_folders(tmp_path / "set"), tmp_path / "scores.json", tmp_path / "rows"
    flags = ["--model", stages, "--dataset", str(folders), "--device", "cpu"]
    assert main([*flags, "--output", str(output), "--clip-benchmark-dir", str(directory), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| model | acc1 |")
    results = json.loads(output.read_text())
    assert [row["model"] for row in results] == ["stage_0", "stage_1", "fused"]
    assert all(row["task"] == "zeroshot_classification" and row["model_hash"] for row in results)
    built = tmp_path / "benchmark.csv"
    files = sorted(map(str, directory.iterdir()))
    command = [sys.executable, "-m", "clip_benchmark.cli", "build", *files, "--output", str(built)]
    subprocess.run(command, check=True, capture_output=True)
    lines = built.read_text().splitlines()
    assert len(lines) == 4 and "acc1" in lines[0]


def _on_rank(rank: int, world_size: int, spec: str, folders: str) -> list[dict]:
    return evaluate(scored(spec), open_set(folders), batch_size=4, rank=rank, world_size=world_size)


def test_two_ranks_equal_one(tmp_path, stages) -> None:
    folders = str(class_folders(tmp_path, per_class=5))
    alone = values(evaluate(scored(stages), open_set(folders), batch_size=4))
    for results in run_ranks(_on_rank, 2, stages, folders):
        assert values(results) == alone


def test_templates_interpret_nothing_else(tmp_path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("{} and {0.__class__} {missing}\n")
    assert read_templates(str(path)) == ("{} and {0.__class__} {missing}",)
    assert len(read_templates("openai")) == 80 and len(read_templates("simple")) == 7
    path.write_text("no place for the class\n")
    with pytest.raises(UserError, match="--templates"):
        read_templates(str(path))


def test_whole_numbers_are_classes_in_numeric_order(tmp_path) -> None:
    import datasets

    images = [{"bytes": encoded(0, number), "path": None} for number in range(12)]
    table = datasets.Dataset.from_dict(
        {"image": images, "label": list(range(12))},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    table.save_to_disk(tmp_path / "saved")
    data = open_set(str(tmp_path / "saved"))
    assert data.classnames == tuple(map(str, range(12)))
    assert [label for _, label in data.samples(1, 3)] == [1, 4, 7, 10]


def test_a_broken_model_is_refused(tmp_path, stages) -> None:
    model = scored(stages)
    with torch.no_grad():
        model.model.stages[1].visual.proj.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN"):
        evaluate(model, open_set(str(class_folders(tmp_path))))


@pytest.mark.parametrize("damage", ["image", "class", "split", "column"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, stages, damage, capsys) -> None:
    folders, output = class_folders(tmp_path / "set"), tmp_path / "scores.json"
    name, more = str(folders), []
    if damage == "image":
        (folders / "test" / "cat" / "0.png").write_bytes(b"no image")
    elif damage == "class":
        for file in (folders / "test" / "bee").iterdir():
            file.unlink()
    elif damage == "split":
        name = str(tmp_path / "no-such-set")
    else:
        more = ["--classnames", str(folders / "templates.txt")]
    with pytest.raises(SystemExit) as exit_:
        main(["--model", stages, "--dataset", name, "--device", "cpu", "--output", str(output), *more])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    assert not output.exists()
