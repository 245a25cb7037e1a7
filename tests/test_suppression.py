"""The study of feature suppression: its plan of work, its measures, its statistics, and a small run to the page."""

import json

import numpy as np
import pytest
import torch

from benchmarks.study.training import batches
from benchmarks.suppression.__main__ import ablation_series, study_series
from benchmarks.suppression.measures import MEASURES, score
from benchmarks.suppression.models import Job, study_arms, study_jobs
from benchmarks.suppression.page import write_page
from benchmarks.suppression.schedule import Series, units_of
from benchmarks.suppression.settings import ABLATIONS, Settings
from benchmarks.suppression.summary import CONTROLS, METHODS, differences, suppressed
from benchmarks.suppression.trainer import labels_alike
from benchmarks.suppression.units import train_unit
from benchmarks.suppression.world import make_world
from demo.features import FEATURES, NAMES

SMALL = Settings(images=256, pairs=6, test_images=60, epochs=1, batch=64, clusters=2, warmup=1)


@pytest.fixture(scope="module")
def world():
    return make_world(SMALL, 3)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_every_model_can_be_trained_and_every_arm_scored(stages):
    settings = Settings(stages=stages)
    done: set[str] = set()
    for job in study_jobs(settings):
        assert set(job.needs) <= done and job.name not in done
        done.add(job.name)
    assert {name for arm in study_arms(settings) for name in arm.models} == done


def test_arms_have_equal_compute():
    shares = {job.name: job.shares for job in study_jobs(Settings())}
    for arm in study_arms(Settings()):
        if arm.name in (*CONTROLS, *METHODS):
            assert sum(shares[name] for name in arm.models) == 3, arm.name


def test_pseudo_labels_remember_all_stages_unless_asked_not_to():
    jobs = {job.name: job for job in study_jobs(Settings(stages=3))}
    assert jobs["base_3"].clustered == ("stage_0", "base_1", "base_2")
    assert jobs["base_3"].start == "stage_0"
    assert jobs["previous_3"].clustered == ("stage_0", "base_1", "previous_2")
    assert jobs["previous_3"].start == "previous_2"
    assert jobs["scratch_2"].start is None
    forgetful = {job.name: job for job in study_jobs(Settings(stages=3, last_labels_only=True))}
    assert forgetful["base_3"].clustered == ("base_2",)


def test_every_ablation_changes_the_results_directory():
    tags = {ablation_series(Settings(), changed).settings.tag for changed in ABLATIONS.values()}
    assert len(tags) == len(ABLATIONS)


def test_global_batches_cover_the_training_set_within_labels():
    labels = ["a"] * 100 + ["b"] * 50 + ["c"] * 42
    rows = []
    for chosen, layout, total in batches(labels, SMALL.recipe(min_segment=8), seed=0, draw=0, epoch=0):
        assert total == 3 and layout.size == len(chosen) == 64
        for start, stop in layout.bounds():
            assert len({labels[row] for row in chosen[start:stop].tolist()}) == 1
        rows += chosen.tolist()
    assert sorted(rows) == list(range(192))


def test_oracle_labels_agree_in_all_features_but_one(world):
    labels = labels_alike(world.train.values, "shape")
    kept = [index for index, name in enumerate(NAMES) if name != "shape"]
    for label in set(labels):
        rows = world.train.values[[index for index, each in enumerate(labels) if each == label]]
        assert len(np.unique(rows[:, kept], axis=0)) == 1


def test_pairs_differ_in_one_feature(world):
    for feature, pairs in zip(FEATURES, world.pairs, strict=True):
        first, second = pairs.statements.reshape(-1, 2).T
        assert (first != second).all() and pairs.statements.max() < len(feature.values)


def perfect(world) -> dict[str, torch.Tensor]:
    """Embeddings that hold every feature's value, one-hot."""
    counts = [len(feature.values) for feature in FEATURES]
    code = [torch.eye(count) for count in counts]

    def of_values(values):
        return torch.cat([code[i][values[:, i]] for i in range(len(counts))], 1)

    found = {"probe": of_values(world.probe.values), "test": of_values(world.test.values)}
    for number, count in enumerate(counts):
        blank = [torch.zeros(count, other) for other in counts]
        blank[number] = torch.eye(count)
        found[f"prompts_{number}"] = torch.cat(blank, 1)
        values = np.zeros((len(world.pairs[number].statements), len(counts)), int)
        values[:, number] = world.pairs[number].statements
        found[f"pairs_{number}"] = of_values(values)
    return found


def test_perfect_embeddings_score_one_and_blind_ones_chance(world):
    known = perfect(world)
    best = score([known], world, "concat")
    assert all(best[measure][name] == 1 for measure in ("pairs", "zero_shot") for name in NAMES)
    blind = {name: torch.ones_like(each) for name, each in known.items()}
    worst = score([blind], world, "concat")
    assert worst["pairs"]["mean"] == 0 and worst["zero_shot"]["mean"] < 0.5
    assert score([known, blind], world, "mean-cosine")["pairs"]["mean"] == 1


def invented(seed: int, gain: float) -> dict:
    """Scores of a seed in which MCL gains `gain` on texture over everything else, and ties elsewhere."""

    def scores(arm):
        value = dict.fromkeys(NAMES, 0.9) | {"texture": 0.4 + 0.01 * seed + (gain if arm in METHODS else 0)}
        return {measure: value | {"mean": float(np.mean(list(value.values())))} for measure in MEASURES}

    arms = {arm.name: scores(arm.name) for arm in study_arms(Settings())}
    facts = {"training_seconds": 40.0, "clustering_seconds": 1.0, "loss": 0.5, "negatives_alike": None}
    return {
        "settings": Settings().record(),
        "seed": seed,
        "scores": {"concat": arms, "mean-cosine": arms},
        "models": {job.name: facts for job in study_jobs(Settings())},
    }


def test_paired_differences_ignore_what_seeds_share(tmp_path):
    seeds = [invented(seed, 0.2 + 0.001 * seed) for seed in range(3)]
    assert suppressed(seeds) == "texture"
    found = differences(seeds, "concat", "pairs", "texture")["MCL from the base"]["ensemble"]
    assert found.mean == pytest.approx(0.201) and found.verdict == "wins"
    write_page(tmp_path, seeds, {})
    page = (tmp_path / "README.md").read_text()
    assert "| MCL from the base | wins 6 |" in page and "loses" not in page.split("## Every arm")[0]
    assert (tmp_path / "arms_mean.svg").stat().st_size > 1000
    assert json.loads((tmp_path / "results.json").read_text())["headline"]["suppressed"] == "texture"


def test_a_loss_is_called_a_loss(tmp_path):
    write_page(tmp_path, [invented(seed, -0.2 - 0.001 * seed) for seed in range(3)], {})
    page = (tmp_path / "README.md").read_text()
    assert "| MCL from the base | loses 6 |" in page and "wins" not in page.split("## Every arm")[0]


def test_models_are_trained_scored_and_reused(tmp_path):
    """Stage 0 and one further stage, trained here; then nothing is left to do."""
    jobs = (Job("stage_0"), Job("base_1", "stage_0", 21, ("stage_0",)))
    arms = [arm for arm in study_series(SMALL, 3).arms if arm.name == "stage 0"]
    series = Series(SMALL, 3, jobs, tuple(arms))
    directory = series.directory(tmp_path)
    units = list(units_of(series, tmp_path))
    assert [unit.weight for unit in units] == [1, 1, 0]
    for unit in units:
        assert not unit.done.is_file() and all(path.is_file() for path in unit.needs)
        unit.run(*unit.arguments)
        assert unit.done.is_file()
    scores = json.loads((directory / "scores.json").read_text())
    assert set(scores["scores"]["concat"]["stage 0"]["pairs"]) == {*NAMES, "mean"}
    assert not list(directory.glob("*/model.safetensors"))
    assert not list(units_of(series, tmp_path))


def test_the_same_seed_trains_the_same_model(tmp_path):
    for name in ("one", "two"):
        train_unit(tmp_path / name, SMALL, 3, Job("stage_0"))
    first, second = ((tmp_path / name / "stage_0" / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second
