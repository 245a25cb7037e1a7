"""Any model by one word: a fused model, a stage, an open_clip name, the hub, or several of these by comma."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError
from torch import nn

from mcl_clip.errors import UserError
from mcl_clip.fusion.files import MCL_CONFIG_NAME, is_fused, load_fused
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.stages import Stage
from mcl_clip.fusion.take_over import open_stage


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
    `fusion`; `pretrained` is then one word for all names, or one a name by comma. Raises `UserError` when
    it cannot be had.
    """
    sources = [str(spec)] if Path(spec).exists() else str(spec).split(",")
    if len(sources) == 1 and (directory := fused_directory(sources[0])) is not None:
        model = load_fused(directory, device, precision)
        return model, model.preprocess, model.tokenizer
    stages = open_stages(sources, pretrained, device=device, precision=precision)
    if len(stages) == 1:
        return stages[0].model, stages[0].preprocess, stages[0].tokenizer
    fused = FusedCLIP(stages, fusion).to(device)
    return fused, fused.preprocess, fused.tokenizer


def fuse(
    sources: Sequence[str | os.PathLike],
    fusion: str = "concat",
    weights: Sequence[float] | None = None,
    card: dict[str, Any] | None = None,
    **options: Any,
) -> FusedCLIP:
    """Fuse stages in the given order; a fused directory stands for all its stages. `options`: see
    `open_stages`."""
    return FusedCLIP(open_stages(sources, **options), fusion, weights, card)


def open_stages(
    sources: Sequence[str | os.PathLike],
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    **options: Any,
) -> list[Stage]:
    """The stages that sources stand for, in order; `options` are those of `open_stage`."""
    tags = pretrained.split(",") if pretrained else [None]
    names = [source for source in map(str, sources) if not Path(source).exists() and not source.startswith("hf-hub:")]
    if len(tags) not in (1, len(names)):
        raise UserError(f"--pretrained names {len(tags)} weights for {len(names)} model names; give one, or one a name")
    queue = iter(tags * len(names) if len(tags) == 1 else tags)
    stages: list[Stage] = []
    for source in map(str, sources):
        if (directory := fused_directory(source)) is not None:
            stages += load_fused(directory, device, precision).stage_info
        else:
            tag = next(queue) if source in names else None
            stages.append(open_stage(source, tag, device, precision, **options))
    return stages


def fused_directory(source: str) -> Path | None:
    """The directory of a fused model, fetched from the hub where need be; None when `source` is something
    else."""
    if source.startswith("hf-hub:"):
        name = source.removeprefix("hf-hub:")
        try:
            hf_hub_download(name, MCL_CONFIG_NAME)
        except EntryNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{source} cannot be fetched ({str(error).strip().splitlines()[0][:200]})") from None
        wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
        return Path(snapshot_download(name, allow_patterns=wanted))
    return Path(source) if is_fused(source) else None
