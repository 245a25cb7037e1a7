"""Any model by one word: a fused model, a stage, an open_clip name, the hub, or several of these by comma."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import nn

from mcl_clip.errors import UserError
from mcl_clip.fusion.files import is_fused, load_fused
from mcl_clip.fusion.fused_images import FusedImages
from mcl_clip.fusion.fused_model import fuse_opened
from mcl_clip.fusion.output import MCL_CONFIG_NAME
from mcl_clip.fusion.stages import Stage, giving
from mcl_clip.fusion.take_over import open_stage
from mcl_clip.models.described import is_described
from mcl_clip.models.stage_model import CONFIG_NAME

PRECISIONS = ("fp32", "amp", "amp_bf16", "amp_bfloat16", "bf16", "fp16", "pure_bf16", "pure_fp16")


def load(
    spec: str | os.PathLike,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    pretrained: str | None = None,
    fusion: str = "concat",
) -> tuple[nn.Module, Any, Any]:
    """Load (model in evaluation mode, preprocess, tokenizer).

    `spec` is a fused directory, a stage directory, `hf-hub:OWNER/NAME` of either, an open_clip name (with
    `pretrained`, a tag or a checkpoint), or several of these by comma, which are fused on the fly with
    `fusion`; `pretrained` is then one word for all names, or one a name by comma. `model.precision` says under
    which precision of open_clip's it is to be run: scorers cast images, and autocast, by it. Raises `UserError`
    when it cannot be had.
    """
    check_placement(device, precision)
    sources = _words(spec)
    if len(sources) == 1 and (directory := fused_directory(sources[0])) is not None:
        model: Any = load_fused(directory, device, precision)
        preprocess, tokenizer = model.preprocess, model.tokenizer
    else:
        stages = open_stages(sources, pretrained, device=device, precision=precision)
        model = stages[0].model if len(stages) == 1 else fuse_opened(stages, fusion).to(device)
        preprocess, tokenizer = stages[0].preprocess, stages[0].tokenizer
    model.precision = precision
    return model, preprocess, tokenizer


def counted(spec: str | os.PathLike, pretrained: str | None = None) -> str:
    """What `load` makes of its words: weights that bring their own configuration stand for the name beside them."""
    named = _with_weights(_words(spec), pretrained)
    return ",".join(tag if tag and is_described(tag) else source for source, tag in named)


def _words(spec: str | os.PathLike) -> list[str]:
    words = [str(spec)] if os.path.exists(spec) else str(spec).split(",")
    if not all(words):
        raise UserError(f"'{spec}' names no model: give a directory or a name, several separated by one comma each")
    return words


def check_placement(device: str | torch.device, precision: str) -> None:
    """`UserError` when open_clip has no such precision (it would take fp32), or this machine no such device."""
    if precision not in PRECISIONS:
        raise UserError(f"--precision is one of {', '.join(PRECISIONS)}, not {precision}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--device {device} cannot be used here ({reason})") from None


def fuse(
    sources: Sequence[str | os.PathLike],
    fusion: str = "concat",
    weights: Sequence[float] | None = None,
    card: dict[str, Any] | None = None,
    output: str | None = None,
    **options: Any,
) -> FusedImages:
    """Fuse stages in the given order; a fused directory stands for all its stages. `options`: see
    `open_stages`. output: of stages of images alone, which embedding is fused, "features" or "projection"."""
    stages = open_stages(sources, **options)
    if output is not None:
        stages = [giving(stage, output) for stage in stages]
    return fuse_opened(stages, fusion, weights, card)


def open_stages(
    sources: Sequence[str | os.PathLike],
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    **options: Any,
) -> list[Stage]:
    """The stages that sources stand for, in order; `options` are those of `open_stage`."""
    stages: list[Stage] = []
    for source, tag in _with_weights([str(source) for source in sources], pretrained):
        if (directory := fused_directory(source)) is not None:
            stages += load_fused(directory, device, precision).stage_info
        else:
            stages.append(open_stage(source, tag, device, precision, **options))
    return stages


def _with_weights(sources: Sequence[str], pretrained: str | None) -> list[tuple[str, str | None]]:
    """Every source with what `pretrained` gives it, which is for names alone."""
    tags = pretrained.split(",") if pretrained else [None]
    names = [source for source in sources if not os.path.exists(source) and not source.startswith("hf-hub:")]
    if len(tags) not in (1, len(names)):
        raise UserError(f"--pretrained names {len(tags)} weights for {len(names)} model names; give one, or one a name")
    queue = iter(tags * len(names) if len(tags) == 1 else tags)
    return [(source, next(queue) if source in names else None) for source in sources]


def fused_directory(source: str) -> Path | None:
    """The directory of a fused model, fetched from the hub where need be; None when `source` is something
    else."""
    if source.startswith("hf-hub:"):
        name = source.removeprefix("hf-hub:")
        wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
        try:
            hf_hub_download(name, MCL_CONFIG_NAME)
            return Path(snapshot_download(name, allow_patterns=wanted))
        except LocalEntryNotFoundError as error:  # no network; a plain stage may still be in the cache
            if isinstance(try_to_load_from_cache(name, CONFIG_NAME), str):
                return None
            raise UserError(f"{source} is not in the hub's cache and cannot be fetched ({_line(error)})") from None
        except EntryNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{source} cannot be fetched ({_line(error)})") from None
    return Path(source) if is_fused(source) else None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
