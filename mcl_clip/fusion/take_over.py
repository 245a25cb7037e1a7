"""Stages from wherever they are: stage directories, open_clip checkpoints and names, the hub."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mcl_clip.artifacts import write_json
from mcl_clip.errors import UserError
from mcl_clip.fusion.build import silent_factory
from mcl_clip.fusion.stages import Stage
from mcl_clip.models.checkpoints import checkpoint_configuration
from mcl_clip.models.described import check_configuration, described_directory
from mcl_clip.models.image_model import is_image_model
from mcl_clip.models.image_stage import build_image_model, placed
from mcl_clip.models.stage_model import CONFIG_NAME, complete_model_cfg, is_stage, load_stage_model, read_stage_config
from mcl_clip.models.weights import read_weights
from mcl_clip.openclip.configs import get_model_config, list_models
from mcl_clip.openclip.downloads import get_pretrained_cfg, list_pretrained_tags_by_model
from mcl_clip.openclip.models import create_model, weights_read_by
from mcl_clip.openclip.tokenizers import get_tokenizer


def open_stage(
    source: str | os.PathLike,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    architecture: str | None = None,
    quick_gelu: bool = False,
) -> Stage:
    """One stage from a stage directory, an open_clip checkpoint file, an open_clip name, or
    `hf-hub:OWNER/NAME`.

    A checkpoint (`.pt`, `.pth`, `.bin`, `.safetensors`, as `read_weights` takes them) says nothing about its
    architecture: `architecture` is open_clip's name for it. A run's own step_*.pt, and weights beside an
    open_clip_config.json, bring their configuration, which counts.
    Checkpoints of models that began as OpenAI's, the reference implementation's among them, need
    QuickGELU: a `-quickgelu` name, or `quick_gelu`. A name needs `pretrained`, a tag or a checkpoint.
    Pickles are read as tensors only.
    """
    path = Path(source)
    for directory in (path, path / "model"):
        if is_stage(directory):
            return _stage_of(directory, str(source), device, precision)
    if path.is_dir():
        inside = next((name for name in ("fused", "stage_0") if (path / name).is_dir()), None)
        hint = f"; it is a run: name {path / inside}" if inside else ""
        raise UserError(f"{source} is not a stage directory: it has no {CONFIG_NAME}{hint}")
    if path.is_file():
        if not quick_gelu and (config := checkpoint_configuration(path)):
            return _stage_of_checkpoint(path, config, device, precision, architecture)
        if architecture is None:
            raise UserError(f"{source} is a checkpoint: name its architecture with --model, as open_clip calls it")
        return _create(architecture, str(path), str(source), device, precision, quick_gelu)
    name = str(source)
    if name.startswith("hf-hub:"):
        return _create(name, None, name, device, precision, quick_gelu)
    if name.replace("/", "-") not in list_models():
        raise UserError(f"{name} is neither a directory, a file, hf-hub:OWNER/NAME nor an open_clip model name")
    if not pretrained:
        raise UserError(f"{name} has no weights without --pretrained (an open_clip tag or a checkpoint file)")
    return _create(name, pretrained, f"{name} {pretrained}", device, precision, quick_gelu)


def _stage_of(directory: Path, source: str, device: str | torch.device, precision: str) -> Stage:
    model, _, tokenizer = load_stage_model(directory, device, precision)
    return Stage(model, read_stage_config(directory), tokenizer, source)


def _stage_of_checkpoint(
    path: Path, config: dict[str, Any], device: str | torch.device, precision: str, name: str | None
) -> Stage:
    """The model of an unfinished run, as the run's own configuration has it, whatever `name` it was given."""
    if name is not None:
        warnings.warn(f"{path} is used as the configuration in it says, not as {name}", stacklevel=3)
    state = read_weights(path)
    if is_image_model(config):
        images = placed(build_image_model(config), device, precision)
        with _failures_in_words(str(path)):
            images.load_state_dict(state)
        return Stage(images.eval(), config, None, str(path))
    with _failures_in_words(str(path)), torch.random.fork_rng(devices=[]), TemporaryDirectory() as folder:
        write_json(Path(folder) / CONFIG_NAME, config)
        name = f"local-dir:{folder}"
        with silent_factory():
            model = create_model(name, precision=precision, device=device, load_weights=False, pretrained_text=False)
        model.load_state_dict(state)
        tokenizer = get_tokenizer(name)
    return Stage(model.eval(), config, tokenizer, str(path))


def _create(
    name: str,
    pretrained: str | None,
    source: str,
    device: str | torch.device,
    precision: str,
    quick_gelu: bool,
) -> Stage:
    if pretrained is not None and not quick_gelu and (folder := described_directory(pretrained)):
        warnings.warn(f"{pretrained} is used as the {CONFIG_NAME} beside it says, not as {name}", stacklevel=2)
        return _stage_of(folder, pretrained, device, precision)
    if pretrained is not None and not quick_gelu and (config := checkpoint_configuration(pretrained)):
        return _stage_of_checkpoint(Path(pretrained), config, device, precision, name)
    if pretrained is not None and not os.path.isfile(pretrained):
        tag = get_pretrained_cfg(name.replace("/", "-"), pretrained)
        if not tag:
            known = ", ".join(list_pretrained_tags_by_model(name)) or "none"
            raise UserError(f"--pretrained {pretrained} is neither a file nor a tag of {name} (tags: {known})")
        quick_gelu = quick_gelu or bool(tag.get("quick_gelu"))
    is_file = pretrained is not None and os.path.isfile(pretrained)
    reading = weights_read_by(read_weights) if is_file else contextlib.nullcontext()
    with _failures_in_words(source), reading, torch.random.fork_rng(devices=[]):
        model = create_model(
            name,
            pretrained,
            device=device,
            precision=precision,
            force_quick_gelu=quick_gelu,
            require_pretrained=True,
            weights_only=True,
        )
        tokenizer = get_tokenizer(name)
        model_cfg = get_model_config(name)
    if pretrained is not None and is_file:
        check_configuration(pretrained, model, model_cfg)
    preprocess_cfg = dict(model.visual.preprocess_cfg)
    config = {"model_cfg": complete_model_cfg(model, model_cfg), "preprocess_cfg": preprocess_cfg}
    return Stage(model.eval(), config, tokenizer, source)


@contextlib.contextmanager
def _failures_in_words(source: str) -> Iterator[None]:
    """Open_clip's many exceptions for a checkpoint that is damaged, foreign or not at hand, as one line."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")
            yield
    except UserError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(f"{source} cannot be loaded: {' '.join(lines[:2])[:300]}") from None
