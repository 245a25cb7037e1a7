"""Optimizer, schedule and gradient scaler, as open_clip_train makes them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mcl_clip.errors import UserError
from mcl_clip.openclip.schedules import const_lr, const_lr_cooldown, cosine_lr
from training.recipe import OptimizationRecipe, StageRecipe


def make_optimizer(model: nn.Module, recipe: OptimizationRecipe, lr: float) -> torch.optim.Optimizer:
    """AdamW or a timm optimizer of what is not locked; gains, biases and the logit scale do not decay."""
    if recipe.opt.lower().startswith("timm/"):
        return _timm_optimizer(model, recipe, lr)
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
            (plain if spared else decayed).append(parameter)
    assert recipe.beta1 is not None and recipe.beta2 is not None and recipe.eps is not None
    try:
        return torch.optim.AdamW(
            [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": recipe.wd}],
            lr=lr,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.eps,
            fused=all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in plain + decayed),
        )
    except ValueError as error:
        raise UserError(f"--beta1 {recipe.beta1}, --beta2 {recipe.beta2}: AdamW refuses them ({error})") from None


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: OptimizationRecipe, stage: StageRecipe, steps_per_epoch: int
) -> Callable[[int], float]:
    """Function of the stage's step (from 0) that sets and returns the learning rate."""
    total = steps_per_epoch * stage.epochs
    if recipe.skip_scheduler:
        return lambda step: stage.lr
    if recipe.lr_scheduler == "cosine":
        return cosine_lr(optimizer, stage.lr, stage.warmup, total)
    if recipe.lr_scheduler == "const":
        return const_lr(optimizer, stage.lr, stage.warmup, total)
    assert recipe.epochs_cooldown is not None
    cooldown = steps_per_epoch * recipe.epochs_cooldown
    return const_lr_cooldown(
        optimizer, stage.lr, stage.warmup, total, cooldown, recipe.lr_cooldown_power, recipe.lr_cooldown_end
    )


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """Gradient scaler of fp16 autocast ("amp"), None for the other precisions."""
    return torch.amp.GradScaler(device=device.type) if precision == "amp" else None


def _timm_optimizer(model: nn.Module, recipe: OptimizationRecipe, lr: float) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    options: dict[str, Any] = {
        "betas": (recipe.beta1, recipe.beta2) if recipe.beta1 is not None else None,
        "momentum": recipe.momentum,
        "eps": recipe.eps,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    name = recipe.opt[len("timm/") :]
    try:
        return create_optimizer_v2(model, name, lr=lr, weight_decay=recipe.wd, **given)
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--opt {recipe.opt}: timm cannot make it ({error})") from None
