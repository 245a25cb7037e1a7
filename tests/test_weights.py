"""Weights in every wrapping, damaged files, and weights that bring their own configuration."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

import mcl_clip
from mcl_clip.errors import UserError
from mcl_clip.fusion.take_over import open_stage
from mcl_clip.models.checkpoints import save_checkpoint
from mcl_clip.models.stage_model import save_stage_model
from mcl_clip.models.weights import read_weights
from mcl_clip.openclip.configs import add_model_config
from tests.tiny_models import TINY, tiny_images, tiny_model
from tests.tiny_runs import command
from training import fuse
from training.main import main


@pytest.fixture(scope="module", autouse=True)
def name(tmp_path_factory):
    """A tiny architecture under an open_clip name."""
    folder = tmp_path_factory.mktemp("model_configs")
    (folder / "mcl-test-vit.json").write_text(json.dumps(TINY["vit"]))
    add_model_config(folder)
    return "mcl-test-vit"


def state_of(seed=0):
    return tiny_model("vit", seed).state_dict()


def prefixed(prefix):
    return {prefix + name: tensor for name, tensor in state_of().items()}


WRAPPINGS = {
    "bare": state_of,
    "DDP": lambda: {"epoch": 3, "state_dict": prefixed("module.")},
    "compiled DDP": lambda: {"state_dict": prefixed("module._orig_mod.")},
    "DDP compiled": lambda: {"model": prefixed("_orig_mod.module.")},
    "a compiled part": lambda: {name.replace("visual.", "visual._orig_mod."): t for name, t in state_of().items()},
    "Lightning": lambda: {"state_dict": prefixed("model."), "hyper_parameters": {"lr": 0.1}},
    "task of open_clip 4": lambda: {"state_dict": prefixed("trainable_module.")},
    "nested": lambda: {"model": {"state_dict": state_of()}},
    "average only": lambda: {"state_dict_ema": prefixed("module."), "epoch": 1},
    "average besides": lambda: {"state_dict": state_of(), "state_dict_ema": state_of(seed=1)},
    "AveragedModel": lambda: AveragedModel(tiny_model("vit", 0)).state_dict(),
    "numpy scalar": lambda: {"state_dict": state_of(), "best": np.float64(0.5), "by_class": np.ones(3, np.float32)},
    "arguments": lambda: {"state_dict": state_of(), "args": argparse.Namespace(lr=0.1, logs=Path("runs"))},
    "optimizer": lambda: {
        "optimizer": torch.optim.AdamW(tiny_model("vit", 0).parameters()).state_dict(),
        "state_dict": state_of(),
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_the_weights(tmp_path, wrapping):
    torch.save(WRAPPINGS[wrapping](), tmp_path / "a.pt")
    read, expected = read_weights(tmp_path / "a.pt"), state_of()
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) for name in expected)


DAMAGED = {
    "empty.pt": (lambda whole: b"", "is empty"),
    "page.pt": (lambda whole: b"<!DOCTYPE html><html>404</html>" * 50, "is a web page"),
    "pointer.safetensors": (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "cut.pt": (lambda whole: whole[: len(whole) // 2], "is damaged or cut short"),
    "noise.pt": (lambda whole: b"\x00noise" * 100, "noise.pt "),
    "cut.safetensors": (lambda whole: b"\x10\x00\x00\x00\x00\x00\x00\x00{", "is damaged or cut short"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_one_line_and_exit_status_2(tmp_path, capfd, name, kind):
    torch.save(state_of(), tmp_path / "whole.pt")
    make, reason = DAMAGED[kind]
    path = tmp_path / kind
    path.write_bytes(make((tmp_path / "whole.pt").read_bytes()))
    assert main([*command(tmp_path), "--model", name, "--pretrained", str(path)]) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert reason in said[-1] and str(path) in said[-1] and "Traceback" not in "".join(said)
    with pytest.raises(SystemExit) as ended:
        fuse.main([str(path), "--model", name, "--output", str(tmp_path / "fused")])
    assert ended.value.code == 2 and reason in capfd.readouterr().err


def test_a_list_is_no_weights(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(tmp_path / "list.pt")


def stage_of(folder, **changes):
    """A stage directory of the tiny ViT with another activation and other means."""
    model = tiny_model("vit", 0, **changes)
    preprocess = model.visual.preprocess_cfg | {"mean": (0.5, 0.5, 0.5)}
    save_stage_model(model, folder, model_cfg=TINY["vit"] | changes, preprocess_cfg=preprocess)
    return folder / "open_clip_model.safetensors"


def test_weights_that_lie_beside_another_configuration_are_refused_in_every_command(tmp_path, capfd, name):
    weights = stage_of(tmp_path / "stage", quick_gelu=True)
    with pytest.raises(UserError, match=r"quick_gelu True, not False.*mean \[0.5, .*use --model .*stage without"):
        mcl_clip.load(name, pretrained=str(weights))
    with pytest.raises(UserError, match="quick_gelu True, not False"):
        open_stage(weights, architecture=name)
    assert main([*command(tmp_path), "--model", name, "--pretrained", str(weights)]) == 2
    assert f"local-dir:{tmp_path}/stage" in capfd.readouterr().err
    said = ["--force-quick-gelu", "--image-mean", "0.5", "0.5", "0.5"]
    assert main([*command(tmp_path, "--epochs", "1"), "--model", name, "--pretrained", str(weights), *said]) == 0


def test_weights_beside_a_configuration_that_says_the_same_are_used(tmp_path, name):
    model = tiny_model("vit", 0)
    save_stage_model(model, tmp_path, model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
    loaded, _, _ = mcl_clip.load(name, pretrained=str(tmp_path / "open_clip_model.safetensors"))
    images = tiny_images(model, 2)
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(images), model.encode_image(images))


def test_other_weights_in_the_same_folder_are_not_described(tmp_path, name):
    stage_of(tmp_path, quick_gelu=True)
    save_file(state_of(), tmp_path / "mine.safetensors")
    assert open_stage(tmp_path / "mine.safetensors", architecture=name).config["model_cfg"]["quick_gelu"] is False


def test_the_checkpoint_of_an_unfinished_run_is_read_with_its_configuration(tmp_path):
    assert main([*command(tmp_path, "--epochs", "2"), "--save-frequency", "1", "--mcl-keep-checkpoints", "9"]) == 0
    state = torch.load(min((tmp_path / "runs/run/stage_0/checkpoints").glob("step_*.pt")), weights_only=True)
    assert state["config"]["preprocess_cfg"]["mean"] == [0.5] * 3
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "mcl-test-run.json").write_text(json.dumps(state["config"]["model_cfg"]))
    add_model_config(tmp_path / "names")
    path = min((tmp_path / "runs/run/stage_0/checkpoints").glob("step_*.pt"))
    with pytest.raises(UserError, match=r"preprocess_cfg.mean \[0.5, 0.5, 0.5\], not"):
        mcl_clip.load("mcl-test-run", pretrained=str(path))


def test_a_checkpoints_own_configuration_counts(tmp_path, name):
    model = tiny_model("vit", 0, quick_gelu=True)
    config = {"model_cfg": TINY["vit"] | {"quick_gelu": True}, "preprocess_cfg": {}}
    path = save_checkpoint(tmp_path, 3, {"model": model.state_dict(), "config": config}, keep=1)
    with pytest.raises(UserError, match="quick_gelu True, not False"):
        open_stage(path, architecture=name)
    stage = open_stage(path, architecture=name, quick_gelu=True)
    images = tiny_images(model, 2)
    with torch.no_grad():
        assert torch.equal(stage.model.encode_image(images), model.encode_image(images))
    assert main([*command(tmp_path, "--epochs", "1"), "--model", name, "--pretrained", str(path)]) == 2
    forced = ["--force-quick-gelu", "--model", name, "--pretrained", str(path)]
    assert main([*command(tmp_path, "--epochs", "1"), *forced]) == 0
