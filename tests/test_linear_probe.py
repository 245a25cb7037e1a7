"""Linear probe: finds what is linearly there, finds nothing in noise, and refuses what cannot be fitted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import cross_entropy

from eval.data.classification import open_set
from eval.linear_probe import evaluate, main
from eval.models import ScoredModel
from eval.tasks.linear_probe import STRENGTHS, features, probe
from eval.tasks.logistic import _Problem, fit
from mcl_clip import load
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from tests.tiny_models import TINY, tiny_model

COLORS = {"dark": 30, "light": 220}


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def probed(train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    return probe(torch.from_numpy(train), labels, torch.from_numpy(test), seed=seed)


def clusters(count: int, classes: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit features around a centre a class, many of them nearer to another's; and the classes."""
    rng = np.random.default_rng(seed)
    centres, labels = np.random.default_rng(7).normal(size=(classes, width)), rng.integers(0, classes, count)
    return unit(centres[labels] + 1.5 * rng.normal(size=(count, width)) + 2), labels


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_the_fit_is_scikit_learns(strength, monkeypatch) -> None:
    monkeypatch.setattr("eval.tasks.logistic.MOST_LOGITS", 5 * 60)  # in blocks of rows
    (train, labels), (test, _) = clusters(400, 5, 12, 0), clusters(200, 5, 12, 1)
    twin = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8).fit(train.astype(np.float64), labels)
    ours = list(fit(torch.from_numpy(train), torch.from_numpy(labels), 5, [strength / 10, strength], tolerance=1e-6))
    logits = torch.from_numpy(test) @ ours[1].weights + ours[1].intercepts
    assert torch.allclose(logits.softmax(1), torch.from_numpy(twin.predict_proba(test)).float(), atol=2e-3)
    assert (ours[1].predict(torch.from_numpy(test)).numpy() == twin.predict(test)).mean() > 0.99
    assert not torch.allclose(ours[0].weights, ours[1].weights)


def test_a_probe_scores_as_scikit_learns_does() -> None:
    (train, labels), (test, truth) = clusters(2000, 8, 24, 0), clusters(4000, 8, 24, 1)
    predicted, strength = probed(train, labels * 10, test)
    twin = LogisticRegression(C=strength, max_iter=1000).fit(train, labels)
    ours, theirs = (predicted == truth * 10).mean(), twin.score(test, truth)
    assert 0.5 < theirs < 0.95 and abs(ours - theirs) <= 0.001


@pytest.mark.parametrize(("samples", "width"), [(64, 96), (400, 12)])
def test_a_fit_ends_within_the_tolerance(samples, width) -> None:
    train, numbers = clusters(samples, 10, width, 3)
    features, labels = torch.from_numpy(train), torch.from_numpy(numbers)
    axes = _Problem(features, labels, 10).axes
    for strength, found in zip(STRENGTHS, fit(features, labels, 10, STRENGTHS, tolerance=1e-4), strict=True):
        weights, intercepts = (each.double().requires_grad_() for each in (found.weights, found.intercepts))
        loss = cross_entropy(features.double() @ weights + intercepts, labels)
        (loss + weights.square().sum() / (2 * strength * samples)).backward()
        assert (axes.T.double() @ weights.grad).abs().max() <= 1.1e-4, strength


def test_one_class_is_what_is_predicted() -> None:
    train = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    predicted, _ = probe(train, np.full(40, 3), train)
    assert predicted.tolist() == [3] * 40


def test_reads_a_linear_label_and_nothing_from_noise() -> None:
    rng = np.random.default_rng(0)
    train, test = unit(rng.normal(size=(300, 8))), unit(rng.normal(size=(400, 8)))
    direction = rng.normal(size=(8, 3))
    predicted, strength = probed(train, (train @ direction).argmax(1), test)
    assert (predicted == (test @ direction).argmax(1)).mean() > 0.9
    assert strength > 1
    predicted, _ = probed(train, rng.integers(0, 3, 300), test)
    assert (predicted == rng.integers(0, 3, 400)).mean() < 0.5


def test_same_seed_same_probe() -> None:
    rng = np.random.default_rng(1)
    train, test, labels = (
        unit(rng.normal(size=(60, 5))),
        unit(rng.normal(size=(30, 5))),
        rng.integers(0, 2, 60),
    )
    first, second = probed(train, labels, test, seed=3), probed(train, labels, test, seed=3)
    assert np.array_equal(first[0], second[0]) and first[1] == second[1]


def class_folders(directory: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 6)):
        for name, level in COLORS.items():
            (directory / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(level + rng.normal(0, 10, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(directory / split / name / f"{number}.png")
    return directory


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> str:
    paths = []
    for seed in (0, 1):
        model = tiny_model("vit", seed)
        paths.append(tmp_path_factory.mktemp("stage") / "model")
        save_stage_model(model, paths[-1], model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
    return ",".join(map(str, paths))


def test_every_row_is_probed_from_one_embedding_of_each_set(tmp_path, stages) -> None:
    folders = str(class_folders(tmp_path))
    train, test = (open_set(folders, split, templates="simple") for split in ("train", "test"))
    passes = []
    counted = [
        replace(each, samples=lambda each=each: passes.append(each.size) or each.samples()) for each in (train, test)
    ]
    scored = ScoredModel(*load(stages), "m")
    rows = {row["model"]: row["metrics"] for row in evaluate(scored, *counted)}
    assert passes == [20, 12]
    assert list(rows) == ["stage_0", "stage_1", "fused"]
    assert all(metrics["lp_acc1"] == 1.0 for metrics in rows.values())
    cached, labels, _ = features(scored, test, batch_size=5)
    assert [len(each) for each in cached] == [12, 12] and labels.tolist() == [0] * 6 + [1] * 6


def test_other_classes_or_one_class_are_refused(tmp_path, stages) -> None:
    folders = str(class_folders(tmp_path))
    train, test = (open_set(folders, split, templates="simple") for split in ("train", "test"))
    scored = ScoredModel(*load(stages), "m")
    with pytest.raises(UserError, match="different classes"):
        evaluate(scored, replace(train, classnames=("x", "y")), test)
    one = replace(train, samples=lambda: (sample for sample in train.samples() if sample.label == 0))
    with pytest.raises(UserError, match="one class only"):
        evaluate(scored, one, test)


def test_an_image_that_does_not_open_is_one_line_and_leaves_nothing(tmp_path, stages, capsys) -> None:
    folders = class_folders(tmp_path / "data")
    (folders / "test" / "dark" / "3.png").write_bytes(b"no image")
    output = tmp_path / "scores.json"
    with pytest.raises(SystemExit) as stop:
        main(["--model", stages, "--dataset", str(folders), "--output", str(output)])
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "3.png" in lines[0]
    assert not output.exists()
