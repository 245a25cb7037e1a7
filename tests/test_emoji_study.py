"""The emoji study: its plan of work, its losses and measures, and small runs from tiny packages."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.emoji.__main__ import main
from benchmarks.emoji.data import generate
from benchmarks.emoji.held_out import HeldOut
from benchmarks.emoji.measures import score
from benchmarks.emoji.settings import FROM_SCRATCH, REAL_TOWERS, STUDIES, WIDE
from benchmarks.emoji.world import Moved, Scored, World, make_world, normalized
from benchmarks.study.hard_negatives import HardNegatives
from benchmarks.study.models import with_needs
from benchmarks.study.schedule import run_all
from benchmarks.study.settings import BASE, CONTROLS, FROM_BASE, HARD, MCL, SHUFFLED, Settings
from benchmarks.study.units import FUSIONS, labels_of, units_of
from mcl_clip.loss.clip import MCLClipLoss
from mcl_clip.plan.segments import SegmentLayout
from tests.emoji_packages import packages

SMALL = Settings(epochs=1, batch=32, warmup=1, clusters=2, min_segment=4, stages=1, shift=1, average=0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("emoji")
    drawn, names = packages(root / "npm")
    return generate(root / "data", root / "npm", packages=drawn, names=names, processes=1)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_arms_have_equal_compute_and_every_model_is_trained_after_what_it_needs(stages):
    arms = Settings(stages=stages, epochs=4).arms()
    assert set(arms) == {BASE, *CONTROLS, MCL, HARD} | ({FROM_BASE} if stages > 1 else set())
    for name in set(arms) - {BASE}:
        assert arms[name].epochs == 4 * (stages + 1), name
    seen = set()
    for model in with_needs(arms[MCL].models):
        assert seen.issuperset(model.needs)
        seen.add(model)


def test_what_a_short_stage_0_leaves_goes_to_the_stages_after_it():
    arms = Settings(stages=2, epochs=4, first_epochs=2).arms()
    assert [model.recipe.epochs for model in arms[MCL].models] == [2, 5, 5]
    assert arms[BASE].epochs == 2 and all(arms[name].epochs == 12 for name in (MCL, *CONTROLS))
    with pytest.raises(ValueError, match="first_epochs=1"):
        Settings(stages=2, epochs=4, first_epochs=1).arms()


def test_further_stages_remember_all_stages_and_the_shuffled_ones_get_the_same_labels():
    arms = Settings(stages=3).arms()
    mcl, shuffled, from_base = (arms[name].models for name in (MCL, SHUFFLED, FROM_BASE))
    assert mcl[3].negatives.models == mcl[:3] and mcl[3].start == mcl[2]
    assert from_base[3].negatives.models == from_base[:3] and from_base[3].start == from_base[0]
    assert from_base[1] == mcl[1]
    assert shuffled[3].start == shuffled[2]
    assert shuffled[3].negatives == replace(mcl[3].negatives, shuffled=True)
    assert len({model.key for arm in arms.values() for model in arm.models}) == 1 + 1 + 3 * 6 - 1


def test_every_try_trains_other_models_of_mcl():
    for study in STUDIES.values():
        keys = {study.tried(name)[MCL].key for name in study.tries}
        assert len(keys) == len(study.tries)


def test_a_wide_model_costs_twice_a_plain_one_and_changes_no_other_key(data, tmp_path):
    place = HeldOut(tmp_path / "models", tmp_path / "units", 5, data, "noto")
    arms = replace(STUDIES[FROM_SCRATCH].settings, stages=1).arms()
    plain, wide = (arms[name].models[0] for name in (BASE, WIDE))
    one, two = place.new_model(plain), place.new_model(wide)
    pictures, texts = torch.zeros(1, 3, 32, 32), torch.zeros(1, 20, dtype=torch.long)
    for side, given in (("encode_image", pictures), ("encode_text", texts)):
        costs = []
        for model in (one, two):
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                embedding = getattr(model, side)(given)
            costs.append(counter.get_total_flops() / embedding.shape[1] * 64)
        assert costs[1] == pytest.approx(costs[0], rel=0.1) and embedding.shape[1] == 128
    assert wide.key != plain.key and "wide" not in plain.record()


def test_moved_pictures_are_shifted_copies_never_mirrored():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8))
    rows = torch.tensor([4, 0, 4, 8])
    assert torch.equal(Moved(images, 0, 1)(rows, 0), normalized(images[rows]))
    moved = Moved(images, 2, 1)
    first, again, later = moved(rows, 0), moved(rows, 0), moved(rows, 1)
    assert torch.equal(first, again) and torch.equal(first[0], first[2]) and not torch.equal(first, later)
    white = torch.full((36, 36, 3), 255, dtype=torch.uint8)
    for row, found in zip(rows, first, strict=True):
        canvas = white.clone()
        canvas[2:34, 2:34] = images[row]
        shifts = [canvas[y : y + 32, x : x + 32] for y in range(5) for x in range(5)]
        assert sum(torch.equal(normalized(each[None])[0], found) for each in shifts) == 1


def test_hard_negatives_are_the_papers_equation():
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=-1) for _ in range(2))
    scale, layout, ids = torch.tensor(6.0), SegmentLayout((7,)), torch.zeros(7, 1)
    plain = MCLClipLoss()(images, texts, scale, segments=layout)
    torch.testing.assert_close(HardNegatives(0.0)(images, texts, scale, layout, ids), plain)
    total = 0.0
    for anchors, others in ((images, texts), (texts, images)):
        for i in range(7):
            logits = [float(scale * anchors[i] @ others[j]) for j in range(7)]
            hardness = {j: np.exp(0.5 * logits[j]) for j in range(7) if j != i}
            mean = sum(hardness.values()) / 6
            negatives = sum(hardness[j] / mean * np.exp(logits[j]) for j in hardness)
            total -= np.log(np.exp(logits[i]) / (np.exp(logits[i]) + negatives))
    assert float(HardNegatives(0.5)(images, texts, scale, layout, ids)) == pytest.approx(total / 14, rel=1e-5)


def test_captions_set_apart_are_on_one_side_only(data):
    whole, split = (make_world(data, "twemoji", 3, share) for share in (0.0, 0.3))
    assert len(whole.fit) == 0 and len(split.fit) + len(split.train) == len(whole.train)
    train, fit = ({tuple(row) for row in tokens.tolist()} for tokens in (split.tokens, split.fit_tokens))
    assert not train & fit and 0.1 < len(fit) / len(train | fit) < 0.5
    other = make_world(data, "twemoji", 4, 0.3)
    assert {tuple(row) for row in other.fit_tokens.tolist()} != fit
    assert len(whole.pairs) == len(whole.pair_tokens) == 2 * len(whole.pair_types)


def one_hot_world(count):
    """`count` classes; pairs of neighbouring classes, of two types."""
    types = ["a", "b", "b"]
    scored = Scored(torch.zeros(0), np.arange(count))
    none = torch.zeros(0)
    return World(none, none, [], none, none, [], none, none, types, none, scored, scored)


def test_perfect_embeddings_score_one_blind_ones_nothing_and_types_are_averaged():
    world = one_hot_world(6)
    eye = torch.eye(6)
    perfect = dict.fromkeys(("pairs", "pair_texts", "classes", "known", "unseen"), eye)
    found = score([perfect], world, "concat")
    assert set(found.values()) == {1.0} and {"pairs a", "pairs b", "known", "retrieval"} <= set(found)
    blind = {name: torch.ones(6, 6) for name in perfect}
    assert score([blind], world, "concat")["pairs"] == 0
    half = perfect | {"pair_texts": eye[[0, 1, 3, 2, 4, 5]]}
    assert score([half], world, "concat")["pairs"] == pytest.approx((1.0 + 0.5) / 2)
    assert score([perfect, blind], world, "mean-cosine")["known"] == 1


def test_models_are_trained_scored_and_reused(data, tmp_path):
    place = HeldOut(tmp_path / "models", tmp_path / "units", 5, data, "twemoji")
    arms = [SMALL.arms()[name] for name in (BASE, MCL, SHUFFLED)]
    units = list(dict.fromkeys(units_of(place, arms)))
    assert [unit.weight for unit in units] == [1, 1, 1, 0, 0, 0]
    run_all(units, processes=1, progress=False)
    assert not list(units_of(place, arms))
    found = json.loads(place.scored(arms[1]).read_text())
    assert found["arm"] == "MCL" and set(found["scores"]) == set(FUSIONS)
    assert len(found["fit"]["weights"]) == 2 and found["fit"]["loss_after"] <= found["fit"]["loss_before"]
    assert found["fit"]["labels"] == 2 and found["fit"]["pairs"] > 0
    base = load_file(place.trained / arms[0].models[0].key / "embeddings.safetensors")
    assert len(base["fit"]) == len(base["fit_texts"]) >= found["fit"]["pairs"]
    assert {"pairs", "pairs Color"} <= set(found["scores"]["concat"])
    assert found["data"] == place.compared != HeldOut(tmp_path, tmp_path, 5, data, "noto").compared
    assert len(base["train"]) == found["training_images"]
    world = make_world(data, "twemoji", 5, place.fit_share)
    plain, dealt = (labels_of(place, world, arm.models[1].negatives) for arm in arms[1:])
    assert Counter(plain) == Counter(dealt) and plain != dealt and len(set(plain)) == 2


def test_scores_of_other_drawings_are_made_again(data, tmp_path):
    place, arm = HeldOut(tmp_path / "models", tmp_path / "units", 5, data, "twemoji"), SMALL.arms()[BASE]
    place.scored(arm).parent.mkdir(parents=True)
    place.scored(arm).write_text(json.dumps({"data": place.compared}))
    assert not list(units_of(place, [arm]))
    place.scored(arm).write_text('{"data": "others"}')
    assert len(list(units_of(place, [arm]))) == 2 and not place.scored(arm).exists()


def test_the_same_seed_trains_the_same_model(data, tmp_path):
    written = []
    for name in ("one", "two"):
        place = HeldOut(tmp_path / name, tmp_path / "units" / name, 5, data, "noto")
        (train, _) = units_of(place, [SMALL.arms()[BASE]])
        train.run(*train.arguments)
        written.append((train.done.parent / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def test_commands_say_what_to_do_first(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["choose", "--results", str(tmp_path), "--report", str(tmp_path)])
    assert left.value.code == 2 and "benchmarks.emoji data" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["one-tower", "--tries", "nonsense"])
    assert "mean of weights, moved pictures" in capsys.readouterr().err
    for name, study in STUDIES.items():
        if study.chosen is None:
            with pytest.raises(SystemExit):
                main(["confirm", "--towers", name, "--results", str(tmp_path)])
            assert "before it is chosen" in capsys.readouterr().err


def test_costs_are_not_measured_before_it_is_chosen(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(STUDIES, REAL_TOWERS, replace(STUDIES[REAL_TOWERS], chosen=None))
    with pytest.raises(SystemExit) as left:
        main(["cost", "--results", str(tmp_path), "--report", str(tmp_path)])
    assert left.value.code == 2 and "before it is chosen" in capsys.readouterr().err
