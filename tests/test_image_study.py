"""The study on images alone: its pictures, its losses and measures, its page, and a small run."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.emoji.data import generate
from benchmarks.images import ablations, settings
from benchmarks.images.__main__ import main
from benchmarks.images.drawings import ATTRIBUTES, _drawn
from benchmarks.images.implicit import ModifiedNTXent
from benchmarks.images.measures import MEASURES, PROJECTIONS, score
from benchmarks.images.page import write_page
from benchmarks.images.places import Drawings, Trifeature, all_views
from benchmarks.images.settings import CHOSEN, IFM, PLAIN, RATE_OF, SEEDS, Settings, ViewsModel, rules, short, tries
from benchmarks.images.summary import primary, suppressed
from benchmarks.images.trifeature import COLOURS, FEATURES, SHAPES, TEXTURES, render
from benchmarks.images.world import UNKNOWN, Labelled, World, make_world
from benchmarks.study.models import with_needs
from benchmarks.study.results import read_results
from benchmarks.study.settings import BASE, CONTROLS, FROM_BASE, MCL
from benchmarks.study.units import CONCAT, LAST_ALONE, labels_of, units_of
from mcl_clip import seeds
from mcl_clip.loss import MCLNTXentLoss
from tests import study_runs
from tests.emoji_packages import packages

SMALL = Settings(stages=1, epochs=1, batch=32, clusters=2, warmup=1, min_segment=4)
SHAPE = settings.World(images=96, probe_images=80, test_images=60)


def test_pictures_are_drawn_from_the_seed_and_show_each_value():
    values = np.array([[shape, 0, 0] for shape in range(len(SHAPES))])
    pictures = render(values, 0.65, seeds.generator(3))
    assert np.array_equal(pictures, render(values, 0.65, seeds.generator(3)))
    assert not np.array_equal(pictures, render(values, 0.65, seeds.generator(4)))
    assert pictures.shape == (10, 3, 32, 32) and pictures.dtype == np.uint8
    for seed in range(5):
        objects = np.abs(render(values, 0.65, seeds.generator(seed))[:, 0].astype(int) - 60) > 80
        assert ((objects.sum((1, 2)) > 40) & (objects.sum((1, 2)) < 260)).all()
        assert not objects[:, [0, -1]].any() and not objects[:, :, [0, -1]].any()  # all of it lies in the picture


@pytest.mark.parametrize("colour", range(len(COLOURS)))
def test_a_solid_object_has_its_colour_and_textures_darken_it(colour):
    values = np.array([[1, colour, texture] for texture in range(len(TEXTURES))] * 6)
    pictures = render(values, 0.65, seeds.generator(colour)).transpose(0, 2, 3, 1).astype(int)
    wanted = list(COLOURS.values())[colour]
    right = (np.abs(pictures - wanted).max(-1) < 25).sum((1, 2)).reshape(6, -1).mean(0)
    assert right[0] > 110 and (right[1:] < 0.85 * right[0]).all() and (right[1:] > 0.2 * right[0]).all()


def test_the_same_seed_has_the_same_parts_and_features_are_independent():
    world = make_world(replace(SHAPE, images=20, test_images=3000), 5)
    assert torch.equal(world.train, make_world(replace(SHAPE, images=20), 5).train)
    assert list(world.test.labels) == list(FEATURES)
    for one in FEATURES:
        counts = np.bincount(world.test.labels[one], minlength=10)
        assert len(counts) == 10 and counts.min() > 230
        for other in FEATURES:
            if one < other:
                both = world.test.labels[one] * 10 + world.test.labels[other]
                assert np.bincount(both, minlength=100).min() > 10


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_every_arm_has_equal_compute_and_every_model_is_trained_after_what_it_needs(stages):
    arms = Settings(stages=stages).arms()
    assert list(arms) == [BASE, *CONTROLS, IFM, MCL, *([FROM_BASE] if stages > 1 else [])]
    for name, arm in arms.items():
        assert arm.epochs == Settings().epochs * (1 if name == BASE else stages + 1), name
        seen = set()
        for model in with_needs(arm.models):
            assert seen.issuperset(model.needs)
            seen.add(model)
    assert all(isinstance(model, ViewsModel) for arm in arms.values() for model in arm.models)
    assert {model.epsilon for model in arms[IFM].models} == {0.1}
    assert {model.epsilon for name in arms if name != IFM for model in arms[name].models} == {0.0}


def test_every_try_rule_and_ablation_trains_something_else():
    for name, by_rate in tries().items():
        assert len({arm.key for arm in by_rate.values()}) == len(by_rate), name
    assert set(tries()) == set(RATE_OF) == {*CONTROLS, IFM, MCL}
    assert len({arm.key for arm in rules().values()}) == len(rules())
    assert not {arm.key for arm in short()} & {arm.key for arm in Settings().arms().values()}
    assert len({ablations.arms_of(name)[-1].key for name in ablations.CHANGED}) == len(ablations.CHANGED)


def test_implicit_feature_modification_is_the_papers_equation():
    generator = torch.Generator().manual_seed(0)
    first, second = (normalize(torch.randn(5, 8, generator=generator), dim=1) for _ in range(2))
    plain = MCLNTXentLoss(temperature=0.5)(first, second)
    torch.testing.assert_close(ModifiedNTXent(0.0, 0.5)(first, second), plain)
    views, total = [*first, *second], 0.0
    for i, anchor in enumerate(views):
        positive = (i + 5) % 10
        for epsilon in (0.0, 0.1):
            up = torch.exp((anchor @ views[positive] - epsilon) / 0.5)
            down = sum(torch.exp((anchor @ views[j] + epsilon) / 0.5) for j in range(10) if j not in (i, positive))
            total -= float(torch.log(up / (up + down)))
    assert float(ModifiedNTXent(0.1, 0.5)(first, second)) == pytest.approx(total / 20, rel=1e-5)


def test_views_depend_on_draw_and_epoch_and_on_nothing_else(tmp_path):
    place = Trifeature(tmp_path, tmp_path, 3, SHAPE)
    first = all_views(place, PLAIN, 0, 0)
    assert first.shape == (96, 2, 3, 32, 32) and first.dtype == torch.uint8
    assert not torch.equal(first[:, 0], first[:, 1])
    all_views.cache_clear()
    assert torch.equal(first, all_views(place, PLAIN, 0, 0))
    for other in ((1, 0), (0, 1)):
        assert not torch.equal(first, all_views(place, PLAIN, *other))


def world_of_labels(labels):
    """A world without pictures, whose probe and test samples have these labels."""
    images = torch.zeros(len(labels), 3, 32, 32, dtype=torch.uint8)
    part = Labelled(images, {"known": labels, "partly": np.where(np.arange(len(labels)) % 3 == 0, UNKNOWN, labels)})
    return World(images, part, part)


def test_a_probe_reads_what_is_there_and_samples_without_a_label_count_for_nothing():
    labels = np.arange(90) % 3
    known = {"probe": torch.eye(3)[labels], "test": torch.eye(3)[labels]}
    known |= {name + PROJECTIONS: torch.ones(90, 2) + 0.01 * torch.rand(90, 2) for name in ("probe", "test")}
    found = score([known, known], world_of_labels(labels), "concat")
    assert found["probe known"] == found["probe partly"] == found["knn mean"] == 1
    assert found["projected mean"] < 0.7
    blind = {name: torch.ones_like(each) for name, each in known.items()}
    assert score([blind], world_of_labels(labels), "concat")["knn known"] == pytest.approx(1 / 3)
    assert score([known, blind], world_of_labels(labels), "concat")["probe mean"] == 1


def test_models_are_trained_scored_and_reused(tmp_path):
    """Stage 0, a further stage, its labels shuffled, and the rival; then nothing is left to do."""
    place = Trifeature(tmp_path / "models", tmp_path / "units", 3, SHAPE)
    arms = [SMALL.arms()[name] for name in (BASE, MCL, "shuffled labels", IFM)]
    for unit in dict.fromkeys(units_of(place, arms)):
        unit.run(*unit.arguments)
    assert not list(units_of(place, arms))
    found = json.loads(place.scored(arms[1]).read_text())
    assert set(found["scores"]) == {CONCAT, LAST_ALONE} and found["fit"] is None
    assert {f"{measure} {name}" for measure in MEASURES for name in (*FEATURES, "mean")} == set(found["scores"][CONCAT])
    world = place.make_world()
    clustered, dealt = (labels_of(place, world, arm.models[1].negatives) for arm in arms[1:3])
    assert set(clustered) == {"0", "1"} and sorted(clustered) == sorted(dealt) and clustered != dealt
    by_features = labels_of(place, world, replace(arms[1].models[1].negatives, of="images"))
    assert set(by_features) == {"0", "1"} and by_features != clustered


def test_emoji_have_their_names_as_labels_and_the_held_out_artist_is_scored(tmp_path):
    drawn, names = packages(tmp_path / "npm")
    data = generate(tmp_path / "data", tmp_path / "npm", packages=drawn, names=names, processes=1)
    place = Drawings(tmp_path / "models", tmp_path / "units", 3, data, "noto", 8)
    world = place.make_world()
    assert len(world) == len(world.probe.images) == 8 and world.train.shape[1:] == (3, 32, 32)
    assert tuple(world.test.labels) == ATTRIBUTES
    assert (world.test.labels["group"] != UNKNOWN).all()
    assert place.name == "emoji-noto-8" and place.drawn != place.compared


def invent(directory, arm, seed, gain):
    """Scores of a seed in which the arm is `gain` above the others on texture."""
    texture = 0.2 + 0.01 * seed + gain
    scores = {f"{measure} {name}": texture if name == "texture" else 0.9 for measure in MEASURES for name in FEATURES}
    scores |= {f"{measure} mean": (1.8 + texture) / 3 for measure in MEASURES}
    study_runs.invent(Trifeature(directory, directory / "units", seed), arm, scores, (CONCAT, LAST_ALONE), 9.0)


def write(directory, gain):
    """The page of three seeds in which MCL gains `gain` and a little more every seed."""
    for seed in SEEDS[:3]:
        for name, arm in CHOSEN.arms().items():
            invent(directory, arm, seed, gain + 0.001 * seed if name in (MCL, FROM_BASE) else 0.0)
    write_page(directory, read_results(directory / "units"))
    return (directory / "README.md").read_text()


def test_up_to_half_of_what_a_probe_sees_is_rare_and_the_rest_is_not():
    rows = list(range(100))
    for rare, expected in ((40, 10), (6, 6)):
        drawn = _drawn(rows, 20, (1,), lambda row, rare=rare: row < rare)
        assert len(set(drawn)) == 20 and sum(row < rare for row in drawn) == expected
    assert _drawn(rows, 20, (1,)) == _drawn(rows, 20, (1,)) != _drawn(rows, 20, (2,))


def test_the_page_says_what_was_won_under_holm_over_all_eight(tmp_path):
    page = write(tmp_path, 0.3)
    results = read_results(tmp_path / "units")
    assert suppressed(results) == "texture"
    found = primary(results)
    assert len(found) == 2 * len(CONTROLS)
    gap, each = found["texture", "ensemble"]
    assert gap.mean == pytest.approx(0.302) and each == pytest.approx([0.301, 0.302, 0.303])
    assert "**8 wins, 0 ties, 0 losses.**" in page and "| texture | ensemble | +30.2 ± " in page
    assert "| mean | one long run | +10.1 ± " in page
    assert (tmp_path / "arms_suppressed.svg").stat().st_size > 1000
    assert json.loads((tmp_path / "results.json").read_text())["MCL minus snapshots | probe texture"] == "wins"


def test_a_loss_is_called_a_loss_and_no_seed_claims_nothing(tmp_path, capsys):
    assert "**0 wins, 0 ties, 8 losses.**" in write(tmp_path, -0.1)
    empty = tmp_path / "empty"
    assert main(["report", "--report", str(empty)]) == 0
    assert capsys.readouterr().out.strip() == f"report: {empty / 'README.md'}"
    assert "Not all runs are there yet" in (empty / "README.md").read_text()
    with pytest.raises(SystemExit) as left:
        main(["all", "--processes", "0", "--report", str(empty)])
    assert left.value.code == 2 and "--processes" in capsys.readouterr().err
