"""Multistage contrastive learning (MCL, ECCV 2024) for CLIP-like models, as an extension of open_clip."""

import os
from typing import Any

from mcl_clip import models as models  # open_clip knows the demo's towers after this

__version__ = "0.1.0"
__all__ = ["load"]


def load(
    spec: str | os.PathLike,
    device: Any = "cpu",
    precision: str = "fp32",
    pretrained: str | None = None,
    fusion: str = "concat",
) -> tuple[Any, Any, Any]:
    """Load (model in evaluation mode, preprocess, tokenizer).

    `spec` is a fused directory, a stage directory, `hf-hub:OWNER/NAME` of either, an open_clip name (with
    `pretrained`, a tag or a checkpoint), or several of these by comma, which are fused on the fly with
    `fusion`. Raises `mcl_clip.errors.UserError` when it cannot be had.
    """
    from mcl_clip.fusion.load import load as load_model

    return load_model(spec, device, precision, pretrained, fusion)
