"""The study of feature suppression: its arms, its measures, its page, and a small run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.study.intervals import interval
from benchmarks.study.models import with_needs
from benchmarks.study.results import read_results
from benchmarks.study.schedule import run_all
from benchmarks.study.settings import BASE, CONTROLS, ENSEMBLE, FROM_BASE, LONGER, MCL, SOUP, STUDENT
from benchmarks.study.training import batches
from benchmarks.study.units import CONCAT, FUSIONS, units_of
from benchmarks.suppression import settings
from benchmarks.suppression.__main__ import main
from benchmarks.suppression.ablations import ablations
from benchmarks.suppression.generated import Generated
from benchmarks.suppression.measures import MEASURES, score
from benchmarks.suppression.page import write_page
from benchmarks.suppression.settings import (
    CHOSEN,
    LOCKED,
    RATE_OF,
    RELATIVES,
    SEEDS,
    Settings,
    oracle_name,
    tried_students,
    tries,
)
from benchmarks.suppression.summary import differences, suppressed, towers
from benchmarks.suppression.world import labels_alike, make_world
from demo.features import FEATURES, NAMES
from tests import study_runs

SMALL = Settings(stages=1, epochs=1, batch=64, clusters=2, warmup=1, min_segment=8)
WORLD = settings.World(images=256, pairs=6, test_images=60)


@pytest.fixture(scope="module")
def world():
    return make_world(WORLD, 3)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_every_arm_has_equal_compute_and_every_model_is_trained_after_what_it_needs(stages):
    settings = Settings(stages=stages)
    for name, arm in {**settings.arms(), **settings.oracle()}.items():
        if name in (*CONTROLS, MCL, *RELATIVES):
            assert arm.epochs == settings.epochs * (stages + 1), name
        seen = set()
        for model in with_needs(arm.models):
            assert seen.issuperset(model.needs)
            seen.add(model)


def test_what_has_run_keeps_its_name():
    scored = {path.name for path in Path("docs/study/units/generated").rglob("*.json")}
    arms = [CHOSEN.arms()[MCL], *(arm for by_rate in tries().values() for arm in by_rate.values())]
    assert scored.issuperset(f"{arm.slug}-{arm.key}.json" for arm in arms)


@pytest.mark.parametrize("stages", [1, 2])
def test_a_student_and_its_rival_have_equal_compute(stages):
    settings = Settings(stages=stages, student_shares=2)
    arms = settings.one_tower()
    (student,), (longer,) = arms[STUDENT].models, arms[LONGER].models
    spent = sum(model.recipe.epochs for model in set(with_needs((student,))))
    assert spent == longer.recipe.epochs == settings.epochs * (stages + 3)
    assert arms[SOUP].epochs == 0 and set(arms[SOUP].models[0].needs) == set(settings.arms()[MCL].models)
    plain = replace(settings, student_ordinary=1.0).one_tower()[STUDENT].models[0]
    assert plain.negatives is None and plain.recipe.ordinary == 0.0


def test_a_student_learns_and_a_soup_is_the_mean_of_weights(tmp_path):
    place = Generated(tmp_path / "models", tmp_path / "units", 3, WORLD)
    arms = replace(SMALL, student_from_soup=True).one_tower()
    wanted = [arms[STUDENT], arms[SOUP]]
    for unit in dict.fromkeys(units_of(place, wanted)):
        unit.run(*unit.arguments)
    (student,), (soup,) = (arm.models for arm in wanted)
    stages = [load_file(place.trained / model.key / "model.safetensors") for model in soup.mean_of]
    mixed = load_file(place.trained / soup.key / "model.safetensors")
    for name, weight in mixed.items():
        torch.testing.assert_close(weight, (stages[0][name] + stages[1][name]) / 2)
    learned = load_file(place.trained / student.key / "model.safetensors")
    assert not torch.equal(learned["visual.head.proj.weight"], mixed["visual.head.proj.weight"])
    assert json.loads((place.trained / soup.key / "facts.json").read_text())["loss"] is None
    for arm in wanted:
        assert set(json.loads(place.scored(arm).read_text())["scores"]) == {CONCAT}


def test_pseudo_labels_remember_all_stages_unless_asked_not_to():
    arms = Settings(stages=3).arms()
    models = arms[MCL].models
    assert models[3].negatives.models == models[:3] and models[3].start == models[2]
    base = arms[FROM_BASE].models
    assert base[3].negatives.models == base[:3] and base[3].start == base[0]
    scratch = arms["MCL from scratch"].models
    assert scratch[2].start is None and scratch[2].draw == models[2].draw
    forgetful = Settings(stages=3, last_labels_only=True).arms()[MCL].models
    assert forgetful[3].negatives.models == forgetful[2:3]


def test_every_try_and_every_ablation_trains_something_else():
    for name, by_rate in tries().items():
        assert len({arm.key for arm in by_rate.values()}) == len(by_rate), name
        assert {arm.name for arm in by_rate.values()} == {name}
    assert set(tries()) == set(RATE_OF) == {*CONTROLS, MCL, RELATIVES[0]}
    found = {(place, arms[-1].key) for place, arms in ablations().values()}
    assert len(found) == len(ablations())


def test_global_batches_cover_the_training_set_within_labels():
    labels = ["a"] * 100 + ["b"] * 50 + ["c"] * 42
    rows = []
    for chosen, layout, total in batches(labels, SMALL.recipe(1e-3), seed=0, draw=0, epoch=0):
        assert total == 3 and layout.size == len(chosen) == 64
        for start, stop in layout.bounds():
            assert len({labels[row] for row in chosen[start:stop].tolist()}) == 1
        rows += chosen.tolist()
    assert sorted(rows) == list(range(192))


def test_samples_with_ordinary_negatives_are_others_in_every_epoch():
    labels = ["a"] * 128 + ["b"] * 128
    recipe = replace(SMALL.recipe(1e-3), ordinary=0.5)
    mixed = []
    for epoch in (0, 0, 1):
        found = set()
        rows = []
        for chosen, layout, _ in batches(labels, recipe, seed=0, draw=0, epoch=epoch):
            rows += chosen.tolist()
            for start, stop in layout.bounds():
                if len({labels[row] for row in chosen[start:stop].tolist()}) > 1:
                    found.update(chosen[start:stop].tolist())
        assert len(set(rows)) == len(rows) > 200
        mixed.append(found)
    assert mixed[0] == mixed[1] != mixed[2] and 80 < len(mixed[0]) < 160


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
    assert all(best[f"{measure} {name}"] == 1 for measure in ("pairs", "zero_shot") for name in NAMES)
    blind = {name: torch.ones_like(each) for name, each in known.items()}
    worst = score([blind], world, "concat")
    assert worst["pairs mean"] == 0 and worst["zero_shot mean"] < 0.5
    assert score([known, blind], world, "mean-cosine")["pairs mean"] == 1


def invent(directory, arm, seed, gain):
    """Scores of a seed in which the arm is `gain` above the others on texture."""
    texture = 0.4 + 0.01 * seed + gain
    scores = {f"{measure} {name}": texture if name == "texture" else 0.9 for measure in MEASURES for name in NAMES}
    scores |= {f"{measure} mean": (4.5 + texture) / 6 for measure in MEASURES}
    count = len(arm.models)
    fit = None if count == 1 else {"weights": [1 / count] * count}
    study_runs.invent(Generated(directory, directory / "units", seed), arm, scores, FUSIONS, 40.0, fit=fit)


def write(directory, gain):
    """The page of three seeds in which MCL gains `gain` and a little more every seed."""
    for seed in SEEDS[:3]:
        for name, arm in CHOSEN.arms().items():
            invent(directory, arm, seed, gain + 0.001 * seed if name in (MCL, FROM_BASE) else 0.0)
    write_page(directory, read_results(directory / "units"))
    return (directory / "README.md").read_text()


def test_paired_differences_ignore_what_seeds_share(tmp_path):
    page = write(tmp_path, 0.2)
    results = read_results(tmp_path / "units")
    assert suppressed(results) == "texture"
    arms = CHOSEN.arms()
    found = interval(differences(results, arms[FROM_BASE], arms[ENSEMBLE], "pairs texture"))
    assert found.mean == pytest.approx(0.202) and found.verdict == "wins"
    first = page.split("## One stage")[0]
    assert "| one long run | +3.4 ± 0.1 | wins | +3.3 | +3.4 | +3.4 |" in first
    assert "loses" not in first
    assert "texture alone makes 100%" in page
    assert (tmp_path / "arms_mean.svg").stat().st_size > 1000
    assert json.loads((tmp_path / "results.json").read_text())["suppressed"] == "texture"


def test_a_student_is_shown_beside_its_rivals_as_soon_as_there_is_one(tmp_path):
    write(tmp_path, 0.2)
    assert "for the price of one" not in (tmp_path / "README.md").read_text()
    for seed in SEEDS[:3]:
        for name, arm in CHOSEN.one_tower().items():
            invent(tmp_path, arm, seed, 0.17 if name == STUDENT else 0.02)
    invent(tmp_path, tried_students()["rate 1e-3, all ordinary"], 100, 0.1)
    write_page(tmp_path, read_results(tmp_path / "units"))
    section = (tmp_path / "README.md").read_text().partition("for the price of one")[2]
    assert "| student | 1.0 | 4 | 84.8 " in section and "| soup | 1.0 | 3 | 82.3 " in section
    assert "| MCL, concat | -0.5 ± 0.0 | -3.2 ± 0.2 |" in section
    assert "| one long run, a share more | +2.5 ± 0.0 |" in section
    assert "| rate 1e-3, all ordinary | 100.0 |" in section and "| rate 1e-3, none ordinary | - | - | - |" in section


def test_a_loss_is_called_a_loss_and_no_seed_claims_nothing(tmp_path):
    page = write(tmp_path, -0.2)
    assert "| one long run | -3.3 ± 0.1 | loses |" in page and "wins" not in page.split("## One stage")[0]
    empty = tmp_path / "empty"
    (empty / "units").mkdir(parents=True)
    write_page(empty, read_results(empty / "units"))
    assert "Not all runs are there yet" in (empty / "README.md").read_text()


def test_what_a_locked_arm_shares_costs_once():
    arms = CHOSEN.arms()
    assert towers(arms[BASE]) == 1 and towers(arms[MCL]) == 3
    assert 1 < towers(arms[LOCKED]) < 3


def test_models_are_trained_scored_and_reused(tmp_path):
    """Stage 0, a further stage, a locked one and an oracle; then nothing is left to do."""
    place = Generated(tmp_path / "models", tmp_path / "units", 3, WORLD)
    arms = [SMALL.arms()[name] for name in (BASE, MCL, LOCKED)] + [SMALL.oracle()[oracle_name("texture")]]
    units = list(dict.fromkeys(units_of(place, arms)))
    assert [unit.weight for unit in units] == [1, 1, 1, 1, 0, 0, 0, 0]
    run_all(units, processes=1, progress=False)
    assert not list(units_of(place, arms))
    found = json.loads(place.scored(arms[1]).read_text())
    assert set(found["scores"]) == set(FUSIONS) and len(found["fit"]["weights"]) == 2
    assert {f"{measure} {name}" for measure in MEASURES for name in (*NAMES, "mean")} == set(found["scores"][CONCAT])
    base, locked = (load_file(place.trained / model.key / "model.safetensors") for model in arms[2].models)
    same = {name for name in base if torch.equal(base[name], locked[name])}
    assert any(name.startswith("visual.trunk.blocks.1") for name in same)
    assert not any(name.startswith(("visual.trunk.blocks.3", "visual.head")) for name in same)
    assert all(name in same for name in base if name.startswith(("transformer", "token_embedding")))


def test_the_same_seed_trains_the_same_model(tmp_path):
    written = []
    for name in ("one", "two"):
        place = Generated(tmp_path / name, tmp_path / name / "units", 3, WORLD)
        (train, _) = units_of(place, [SMALL.arms()[BASE]])
        train.run(*train.arguments)
        written.append((train.done.parent / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_captions_set_apart_to_fit_are_on_one_side_only(world):
    assert not set(world.captions) & set(world.fit_captions)
    assert len(world.captions) + len(world.fit_captions) == WORLD.images
    assert len(world.fit.images) == len(world.fit_tokens) == len(world.fit_captions) > 10


def test_the_report_is_written_from_what_there_is(tmp_path, capsys):
    assert main(["report", "--report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == f"report: {tmp_path / 'README.md'}"
    assert "Choosing the rates" in (tmp_path / "README.md").read_text()
    with pytest.raises(SystemExit) as left:
        main(["all", "--processes", "0", "--report", str(tmp_path)])
    assert left.value.code == 2 and "--processes" in capsys.readouterr().err
