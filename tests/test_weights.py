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
from eval.command import add_model_arguments, load_scored_model
from mcl_clip.errors import UserError
from mcl_clip.fusion.take_over import open_stage
from mcl_clip.models.checkpoints import save_checkpoint
from mcl_clip.models.stage_model import read_stage_config, save_stage_model
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


@torch.no_grad()
def test_weights_are_used_as_the_configuration_beside_them_says_in_every_command(tmp_path, name):
    weights = stage_of(tmp_path / "stage", quick_gelu=True)
    expected, preprocess, _ = mcl_clip.load(tmp_path / "stage")
    images = tiny_images(expected, 2)
    with pytest.warns(UserWarning, match=f"as the open_clip_config.json beside it says, not as {name}"):
        model, found, _ = mcl_clip.load(name, pretrained=str(weights))
    assert torch.equal(model.encode_image(images), expected.encode_image(images)) and str(found) == str(preprocess)
    with pytest.warns(UserWarning, match="beside it"):
        assert open_stage(weights, architecture=name).config["model_cfg"]["quick_gelu"] is True
    with pytest.warns(UserWarning, match="beside it"):
        assert fuse.main([str(weights), "--model", name, "--output", str(tmp_path / "fused")]) == 0
    fused, _, _ = mcl_clip.load(tmp_path / "fused")
    assert torch.equal(fused.encode_image(images), expected.encode_image(images))


def test_a_run_starts_from_weights_as_the_configuration_beside_them_says(tmp_path, name):
    weights = stage_of(tmp_path / "stage", quick_gelu=True)
    flags = ["--mcl-base", "keep", "--image-std", "0.1", "0.1", "0.1"]
    assert main([*command(tmp_path), "--model", name, "--pretrained", str(weights), *flags]) == 0
    config = read_stage_config(tmp_path / "runs/run/stage_0/model")
    assert config["model_cfg"]["quick_gelu"] is True
    assert list(config["preprocess_cfg"]["mean"]) == [0.5] * 3 and list(config["preprocess_cfg"]["std"]) == [0.1] * 3


def test_other_weights_in_the_same_folder_are_not_described(tmp_path, name):
    stage_of(tmp_path, quick_gelu=True)
    save_file(state_of(), tmp_path / "mine.safetensors")
    assert open_stage(tmp_path / "mine.safetensors", architecture=name).config["model_cfg"]["quick_gelu"] is False


def test_the_checkpoint_of_an_unfinished_run_is_opened_as_the_run_has_it(tmp_path):
    assert main([*command(tmp_path, "--epochs", "2"), "--force-quick-gelu", "--mcl-keep-checkpoints", "9"]) == 0
    path = min((tmp_path / "runs/run/stage_0/checkpoints").glob("step_*.pt"))
    stage = open_stage(path)
    config = read_stage_config(tmp_path / "runs/run/stage_0/model")
    assert stage.config["model_cfg"]["quick_gelu"] is config["model_cfg"]["quick_gelu"] is True
    assert list(stage.preprocess_cfg["mean"]) == [0.5] * 3
    state = torch.load(path, weights_only=True)["model"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in stage.model.state_dict().items())
    assert fuse.main([str(path), "--output", str(tmp_path / "fused")]) == 0


def test_a_run_from_a_checkpoint_of_another_configuration_is_refused(tmp_path, capfd, caplog, name):
    model = tiny_model("vit", 0, quick_gelu=True)
    config = {"model_cfg": TINY["vit"] | {"quick_gelu": True}, "preprocess_cfg": {}}
    path = save_checkpoint(tmp_path, 3, {"model": model.state_dict(), "config": config}, keep=1)
    with pytest.warns(UserWarning, match=f"as the configuration in it says, not as {name}"):
        opened, _, _ = mcl_clip.load(name, pretrained=str(path))
    assert "initialized randomly" not in caplog.text
    with pytest.warns(UserWarning, match=f"as the configuration in it says, not as {name}"):
        assert fuse.main([str(path), "--model", name, "--output", str(tmp_path / "fused")]) == 0
    images = tiny_images(model, 2)
    with torch.no_grad():
        assert torch.equal(opened.encode_image(images), model.encode_image(images))
    start = [*command(tmp_path, "--epochs", "1"), "--model", name, "--pretrained", str(path)]
    assert main(start) == 2
    assert "whose configuration says quick_gelu True, not False" in capfd.readouterr().err
    assert main([*start, "--force-quick-gelu"]) == 0


@pytest.mark.filterwarnings("ignore:.*says, not as")
def test_scores_name_the_weights_that_count_and_not_the_architecture_beside_them(tmp_path, name):
    stage, other = tmp_path / "stage", tmp_path / "mine.safetensors"
    weights = stage_of(stage, quick_gelu=True)
    save_file(state_of(), other)
    config = {"model_cfg": TINY["vit"], "preprocess_cfg": {}}
    path = save_checkpoint(tmp_path, 3, {"model": state_of(), "config": config}, keep=1)
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    for model, pretrained, source in [
        (name, path, str(path)),
        (name, weights, str(weights)),
        (name, other, name),
        (f"{stage},{name}", path, f"{stage},{path}"),
    ]:
        flags = ["--model", model, "--pretrained", str(pretrained), "--device", "cpu"]
        assert load_scored_model(parser.parse_args(flags)).name == source
