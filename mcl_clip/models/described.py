"""Weights that come with their own configuration are used by it, or not at all: it says what no weight shows."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcl_clip.errors import UserError
from mcl_clip.models.checkpoints import checkpoint_configuration
from mcl_clip.models.stage_model import CONFIG_NAME, complete_model_cfg, has_weights, stage_weights
from mcl_clip.openclip.models import CLIPTextCfg, CLIPVisionCfg
from mcl_clip.openclip.transforms import PreprocessCfg

_NOT_OF_WEIGHTS = {
    "hf_model_name", "hf_model_pretrained", "hf_tokenizer_name", "hf_tokenizer_revision", "tokenizer_kwargs",
    "timm_model_pretrained", "patch_dropout", "size",
}  # fmt: skip


def described_directory(weights: str | os.PathLike) -> Path | None:
    """The directory whose weights these are, when it has an open_clip_config.json; None for any other file."""
    path, folder = Path(weights), Path(weights).parent
    is_described = path.is_file() and (folder / CONFIG_NAME).is_file() and has_weights(folder)
    return folder if is_described and stage_weights(folder).samefile(path) else None


def is_described(weights: str | os.PathLike) -> bool:
    """Whether weights bring their own configuration, in them or beside them."""
    return described_directory(weights) is not None or checkpoint_configuration(weights) is not None


def check_configuration(weights: str | os.PathLike, model: Any, model_cfg: Mapping[str, Any]) -> None:
    """`UserError` when the configuration in a checkpoint of a run says otherwise than the model that took its weights.

    `model` was built by name from `model_cfg`. Compared is what changes an embedding and has no tensor: the
    activation, heads, pooling, sizes, mean and standard deviation, how images are resized.
    """
    described = checkpoint_configuration(weights)
    if described is None:
        return
    ours = _facts({"model_cfg": complete_model_cfg(model, model_cfg), "preprocess_cfg": model.visual.preprocess_cfg})
    theirs = _facts(described)
    names = [name for name in ours if theirs.get(name, ours[name]) != ours[name]]
    if names:
        said = "; ".join(f"{name} {theirs[name]}, not {ours[name]}" for name in names[:4])
        raise UserError(
            f"{weights} is of a run whose configuration says {said}: "
            "give the flags that it was started with, such as --force-quick-gelu or --image-mean"
        )


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value, with open_clip's defaults filled in."""
    model, preprocess = config["model_cfg"], config.get("preprocess_cfg") or {}
    parts = {
        "vision_cfg": _filled(CLIPVisionCfg, model.get("vision_cfg") or {}),
        "text_cfg": _filled(CLIPTextCfg, model.get("text_cfg") or {}),
        "preprocess_cfg": _filled(PreprocessCfg, preprocess) if preprocess else {},
    }
    facts = {"quick_gelu": bool(model.get("quick_gelu", False))}
    for part, values in parts.items():
        facts |= {f"{part}.{name}": _plain(value) for name, value in values.items() if name not in _NOT_OF_WEIGHTS}
    return facts


def _filled(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return vars(kind(**given))
    except TypeError:  # of another version
        return dict(given)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
