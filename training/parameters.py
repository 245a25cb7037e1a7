"""Which parameters decay, and how much slower the layers far from the head learn."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from mcl_clip.errors import UserError
from mcl_clip.openclip.layers import Layer, image_layers, text_layers
from training.recipe import OptimizationRecipe

_SPARED = ("bn", "ln", "bias", "logit_scale")


def has_own_groups(recipe: OptimizationRecipe) -> bool:
    """Whether flags say which parameters decay, or how their rates do."""
    return bool(recipe.wd_exclude or _factors(recipe))


def parameter_groups(model: nn.Module, recipe: OptimizationRecipe, lr: float) -> list[dict[str, Any]]:
    """What is not locked, in an optimizer's groups: `params`, `weight_decay`; with decayed rates `lr_scale` and `lr`.

    Gains, biases, the logit scale and what matches `wd_exclude` (fnmatch over whole names) do not decay. A layer's
    rate is `lr` times the tower's factor to the power of the layers between it and the head; what is of no decayed
    tower has `lr`. Groups go from the head to the input. `UserError` for a tower that cannot be taken apart.
    """
    patterns = recipe.wd_exclude or []
    decays_rates = bool(_factors(recipe))
    scales = dict(_scales(model, recipe))
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    if not decays_rates:  # two groups, also where one is empty, so that checkpoints fit
        groups = {key: _group(*key, recipe, None) for key in ((1.0, False), (1.0, True))}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim < 2 or any(part in name for part in _SPARED)
            spared = spared or any(fnmatchcase(name, pattern) for pattern in patterns)
            key = (scales.get(parameter, 1.0), not spared)
            group = groups.setdefault(key, _group(*key, recipe, lr))
            group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, key=lambda key: (-key[0], key[1]))]


def _group(scale: float, decays: bool, recipe: OptimizationRecipe, lr: float | None) -> dict[str, Any]:
    rates = {} if lr is None else {"lr_scale": scale, "lr": lr * scale}
    return {"params": [], "weight_decay": recipe.wd if decays else 0.0, **rates}


def _factors(recipe: OptimizationRecipe) -> dict[str, tuple[float, Callable[[Any], list[Layer] | None]]]:
    """By tower: the factor, where it is no 1, and what takes the tower apart."""
    asked = {"image": (recipe.image_layer_decay, image_layers), "text": (recipe.text_layer_decay, text_layers)}
    return {tower: (factor, layers) for tower, (factor, layers) in asked.items() if factor not in (None, 1.0)}  # type: ignore[misc]


def _scales(model: nn.Module, recipe: OptimizationRecipe) -> Iterator[tuple[nn.Parameter, float]]:
    for tower, (factor, take_apart) in _factors(recipe).items():
        layers = take_apart(model)
        if layers is None:
            raise UserError(f"--{tower}-layer-decay: the layers of this {tower} tower are not known; leave it out")
        for depth, members in enumerate(reversed(layers)):
            for member in members:
                for parameter in [member] if isinstance(member, nn.Parameter) else member.parameters():
                    yield parameter, factor**depth
