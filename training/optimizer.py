"""Optimizer, schedule and gradient scaler, as open_clip_train makes them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mcl_clip.errors import UserError
from mcl_clip.openclip.schedules import const_lr, const_lr_cooldown, cosine_lr
from training.parameters import has_own_groups, parameter_groups
from training.recipe import OptimizationRecipe, StageRecipe


def make_optimizer(model: nn.Module, recipe: OptimizationRecipe, lr: float) -> torch.optim.Optimizer:
    """AdamW or a timm optimizer of what is not locked, with the rates and decays of `parameter_groups`."""
    if recipe.opt.lower().startswith("timm/"):
        return _timm_optimizer(model, recipe, lr)
    assert recipe.beta1 is not None and recipe.beta2 is not None and recipe.eps is not None
    groups = parameter_groups(model, recipe, lr)
    trained = [parameter for group in groups for parameter in group["params"]]
    more = recipe.opt_kwargs or {}
    can_fuse = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trained)
    options: dict[str, Any] = {
        "lr": lr,
        "betas": (recipe.beta1, recipe.beta2),
        "eps": recipe.eps,
        "fused": can_fuse and not more.get("foreach"),
    }
    try:
        return torch.optim.AdamW(groups, **options | more)
    except (ValueError, TypeError, RuntimeError) as error:
        given = f"--beta1 {recipe.beta1}, --beta2 {recipe.beta2}{_spelt(recipe)}"
        raise UserError(f"{given}: AdamW refuses them ({error})") from None


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: OptimizationRecipe, stage: StageRecipe, steps_per_epoch: int
) -> Callable[[int], float]:
    """Function of the stage's step (from 0) that sets the learning rates and returns that of the head."""
    total = steps_per_epoch * stage.epochs
    if recipe.skip_scheduler:
        return lambda step: stage.lr
    if recipe.lr_scheduler == "cosine":
        schedule = cosine_lr(optimizer, stage.lr, stage.warmup, total)
    elif recipe.lr_scheduler == "const":
        schedule = const_lr(optimizer, stage.lr, stage.warmup, total)
    else:
        assert recipe.epochs_cooldown is not None
        cooldown = steps_per_epoch * recipe.epochs_cooldown
        schedule = const_lr_cooldown(
            optimizer, stage.lr, stage.warmup, total, cooldown, recipe.lr_cooldown_power, recipe.lr_cooldown_end
        )

    def set_rates(step: int) -> float:
        lr = schedule(step)
        for group in optimizer.param_groups:  # open_clip 3 gives all groups the same rate
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr

    return set_rates


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """Gradient scaler of fp16 autocast ("amp"), None for the other precisions."""
    return torch.amp.GradScaler(device=device.type) if precision == "amp" else None


def _timm_optimizer(model: nn.Module, recipe: OptimizationRecipe, lr: float) -> torch.optim.Optimizer:
    """With timm's own decay, unless a flag says which parameters decay, or how rates do."""
    from timm.optim import create_optimizer_v2

    options: dict[str, Any] = {
        "betas": (recipe.beta1, recipe.beta2) if recipe.beta1 is not None else None,
        "momentum": recipe.momentum,
        "eps": recipe.eps,
    }
    given = {name: value for name, value in options.items() if value is not None} | (recipe.opt_kwargs or {})
    trained: Any = parameter_groups(model, recipe, lr) if has_own_groups(recipe) else model
    try:
        return create_optimizer_v2(trained, recipe.opt[len("timm/") :], lr=lr, weight_decay=recipe.wd, **given)
    except (AssertionError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"--opt {recipe.opt}{_spelt(recipe)}: timm cannot make it ({error})") from None


def _spelt(recipe: OptimizationRecipe) -> str:
    given = recipe.opt_kwargs or {}
    return ", --opt-kwargs " + " ".join(f"{key}={value}" for key, value in given.items()) if given else ""
