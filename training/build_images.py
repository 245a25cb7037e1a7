"""The model of images alone that a stage starts from."""

import os
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config

import mcl_clip.models  # noqa: F401  timm then knows our small models
from mcl_clip.artifacts import sha256_file
from mcl_clip.errors import UserError
from mcl_clip.loading.views import Augmentations
from mcl_clip.models.image_model import ImageModel
from mcl_clip.models.image_stage import is_image_stage, load_image_stage, placed
from mcl_clip.models.small_stem import SMALL
from mcl_clip.models.stage_model import model_hash, read_stage_config
from mcl_clip.models.weights import read_weights
from training.build import BuiltModel, seeded
from training.recipe import ModelRecipe, ObjectiveRecipe, Recipe
from training.reporting import log

PREFIX = "timm/"


def build_backbone(recipe: Recipe, device: torch.device) -> BuiltModel:
    """Stage 0's model, from --model timm/NAME or local-dir:STAGE; the seed draws new weights, and those of the head.

    --pretrained is a tag of timm's or a file of weights of the backbone, --pretrained-image timm's default tag.
    """
    flags = recipe.model
    if flags.model.startswith("local-dir:"):
        return build_from_image_stage(Path(flags.model.removeprefix("local-dir:")), recipe, device)
    name = backbone_name(flags)
    is_file = os.path.isfile(flags.pretrained)
    if flags.pretrained and not is_file:
        name = f"{name.partition('.')[0]}.{flags.pretrained}"
    preprocess_cfg, args = _preprocess(flags, name)
    assert recipe.objective.projection_dim is not None
    model_cfg: dict[str, Any] = {
        "timm_model": name,
        "timm_args": args,
        "projection": {"kind": recipe.objective.objective, "dim": recipe.objective.projection_dim},
    }
    with seeded(recipe.seed, device):
        model = ImageModel(model_cfg, preprocess_cfg, pretrained=flags.pretrained_image or bool(flags.pretrained))
    if is_file:
        _load(model, flags.pretrained)
    size = model.visual.feature_dim
    model_cfg |= {"features": {"dim": size}, "output": "features", "embed_dim": size}
    _hint(name, model.visual.image_size)
    return _built(placed(model, device, recipe.optimization.precision), model_cfg, preprocess_cfg)


def build_from_image_stage(
    directory: Path, recipe: Recipe, device: torch.device, scratch_seed: int | None = None
) -> BuiltModel:
    """A model of a stage directory, or of its architecture with new weights drawn from `scratch_seed`."""
    if not is_image_stage(directory):
        raise UserError(f"{directory} is no stage of images alone (--mcl-objective); give one, or --model timm/NAME")
    config = read_stage_config(directory)
    if scratch_seed is None:
        model = load_image_stage(directory, device, recipe.optimization.precision)
    else:
        with seeded(scratch_seed, device):
            model = ImageModel(config["model_cfg"], config["preprocess_cfg"])
        model = placed(model, device, recipe.optimization.precision)
    return _built(model, config["model_cfg"], config["preprocess_cfg"])


def first_backbone(flags: ModelRecipe) -> str:
    """What stage 0's first weights are, as a name; see `build.base_weights`."""
    if flags.model.startswith("local-dir:"):
        return f"{flags.model} {model_hash(flags.model.removeprefix('local-dir:'))}"
    new = "timm" if flags.pretrained_image else "new"
    name = f"{flags.model} {flags.pretrained or new}"
    return f"{name} {sha256_file(flags.pretrained)}" if os.path.isfile(flags.pretrained) else name


def augmentations(settings: ObjectiveRecipe) -> Augmentations:
    """The views' augmentations of a recipe."""
    assert settings.crop_scale and settings.jitter_strengths and settings.blur_sigma
    assert settings.flip is not None and settings.jitter is not None and settings.gray is not None
    brightness, contrast, saturation, hue = settings.jitter_strengths
    return Augmentations(
        scale=(settings.crop_scale[0], settings.crop_scale[1]),
        flip=settings.flip,
        jitter=settings.jitter,
        strengths=(brightness, contrast, saturation, hue),
        gray=settings.gray,
        blur=settings.blur,
        sigma=(settings.blur_sigma[0], settings.blur_sigma[1]),
    )


def backbone_name(flags: ModelRecipe) -> str:
    """timm's name of --model timm/NAME; `UserError` for another."""
    name = flags.model.removeprefix(PREFIX)
    if not flags.model.startswith(PREFIX) or not timm.is_model(name.partition(".")[0]):
        raise UserError(f"--model {flags.model}: images alone are trained with a backbone of timm, as timm/resnet18")
    return name


def _preprocess(flags: ModelRecipe, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's preprocessing of a backbone, as the flags change it; and timm's arguments for that size."""
    try:
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except (RuntimeError, KeyError, ValueError):
        cfg = None
    if cfg is None:
        raise UserError(f"--model timm/{name}: timm has no such tag; leave --pretrained out, or choose another")
    known = resolve_data_config(pretrained_cfg=cfg.to_dict())
    given = flags.force_image_size
    size = given if given is not None else known["input_size"][-1]
    size = size if isinstance(size, int) or len(size) > 1 else size[0]
    args = {"img_size": size} if cfg.fixed_input_size and given is not None else {}
    preprocess_cfg = {
        "size": size,
        "mode": "RGB",
        "mean": list(flags.image_mean or known["mean"]),
        "std": list(flags.image_std or known["std"]),
        "interpolation": flags.image_interpolation or "bicubic",
        "resize_mode": flags.image_resize_mode or "shortest",
        "fill_color": 0,
    }
    return preprocess_cfg, args


def _built(model: ImageModel, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any]) -> BuiltModel:
    built: Any = model.train()
    return BuiltModel(built, model_cfg, preprocess_cfg, None)


def _load(model: ImageModel, path: str) -> None:
    """Weights of the backbone from a file; a classifier's are passed over."""
    state = read_weights(path)
    missing = model.visual.trunk.load_state_dict(
        {name: value for name, value in state.items() if name in model.visual.trunk.state_dict()}, strict=False
    ).missing_keys
    if missing:
        raise UserError(f"--pretrained {path} lacks {missing[0]} and {len(missing) - 1} more of the backbone's weights")


def _hint(name: str, size: tuple[int, int]) -> None:
    small = f"mcl_{name}_small"
    if min(size) < SMALL and timm.is_model(small):
        log.warning(
            f"--model timm/{name} halves images of {min(size)} pixels twice at its beginning; timm/{small} does not"
        )
