"""A stage of images alone on disk: a directory that plain timm loads as a backbone, with the projection head beside it.

config.json                timm's, with ours beside it under model_cfg, preprocess_cfg and mcl_clip
model.safetensors          the backbone, by timm's names: timm.create_model("local-dir:DIRECTORY", pretrained=True)
head/model.safetensors     the projection, in a folder of its own: timm before 1.0.29 stumbles over two files in one
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from mcl_clip.artifacts import atomic_directory, read_json
from mcl_clip.errors import UserError
from mcl_clip.models.image_model import ImageModel, is_image_model
from mcl_clip.openclip.precision import get_input_dtype

TIMM_CONFIG_NAME = "config.json"
BACKBONE_NAME, PROJECTION_NAME = "model.safetensors", "head/model.safetensors"


def is_image_stage(directory: str | os.PathLike) -> bool:
    """Whether a directory is one that `save_image_stage` wrote."""
    path = Path(directory) / TIMM_CONFIG_NAME
    if not path.is_file():
        return False
    config = read_json(path)
    return isinstance(config, dict) and isinstance(config.get("model_cfg"), dict) and is_image_model(config)


def save_image_stage(model: ImageModel, directory: str | os.PathLike, config: Mapping[str, Any]) -> None:
    """Write a model, atomically; config: model_cfg, preprocess_cfg and mcl_clip."""
    preprocess = config["preprocess_cfg"]
    facts = {"input_size": (3, *model.visual.image_size), "mean": preprocess["mean"], "std": preprocess["std"]}
    facts |= {"interpolation": preprocess["interpolation"], "crop_pct": 1.0, "num_classes": 0}
    args = config["model_cfg"]["timm_args"]
    with atomic_directory(directory) as temporary:
        trunk = model.visual.trunk
        device = next(trunk.parameters()).device
        save_for_hf(
            trunk.cpu(),
            str(temporary),
            model_config={**config, "pretrained_cfg": facts},
            model_args=dict(args),
            safe_serialization=True,
        )
        trunk.to(device)
        (temporary / PROJECTION_NAME).parent.mkdir()
        save_file(_on_host(model.projection), temporary / PROJECTION_NAME)


def load_image_stage(directory: str | os.PathLike, device: Any = "cpu", precision: str = "fp32") -> ImageModel:
    """Load a stage directory, in evaluation mode; `UserError` when it is not whole."""
    config = read_json(Path(directory) / TIMM_CONFIG_NAME)
    model = build_image_model(config)
    try:
        model.visual.trunk.load_state_dict(load_file(Path(directory) / BACKBONE_NAME))
        model.projection.load_state_dict(load_file(Path(directory) / PROJECTION_NAME))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{directory} does not load ({reason}); {TIMM_CONFIG_NAME} and weights must belong together"
        ) from None
    return placed(model, device, precision).eval()


def build_image_model(config: Mapping[str, Any]) -> ImageModel:
    """A model of a stage's configuration, untrained; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        return ImageModel(config["model_cfg"], config["preprocess_cfg"])


def placed(model: ImageModel, device: Any, precision: str) -> ImageModel:
    """The model on its device, in the half type of open_clip's pure precisions."""
    return model.to(device, get_input_dtype(precision))


def _on_host(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
