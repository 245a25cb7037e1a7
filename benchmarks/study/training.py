"""Train one model of a study: mcl_clip's plan, open_clip's schedule, everything in memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mcl_clip import seeds
from mcl_clip.openclip.schedules import cosine_lr
from mcl_clip.plan.plan import make_plan
from mcl_clip.plan.policy import Policy
from mcl_clip.plan.segments import SegmentLayout

ORDINARY = 13  # sets the random numbers of who gets ordinary negatives apart from the plan's

BatchLoss = Callable[[Tensor, int, SegmentLayout], Tensor]
"""The loss of rows of the training set in an epoch, under a layout."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    warmup: steps. average: decay of the mean of weights over steps that is kept instead of the last ones; None keeps
    the last. mask_identical: as of `MCLClipLoss`. leftovers, min_segment: as of `Policy`. ordinary: share of the
    samples, others in every epoch, whose negatives come from anywhere.
    """

    epochs: int
    batch: int = 256
    lr: float = 1e-3
    wd: float = 0.1
    warmup: int = 20
    average: float | None = None
    mask_identical: bool = False
    leftovers: str = "pack"
    min_segment: int = 32
    ordinary: float = 0.0


def train(
    model: nn.Module, loss_of: BatchLoss, labels: Sequence[str], recipe: Recipe, *, seed: int, draw: int
) -> float:
    """Train `model` on negatives of the same label, of which `labels` has one a row; leaves it in eval mode.

    Returns the last epoch's mean loss. A logit scale is held within CLIP's bounds.
    """
    model.train()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    spared = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": recipe.wd}],
        lr=recipe.lr,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,
    )
    averaged = None
    if recipe.average is not None:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.average))
    schedule, step, last = None, 0, math.nan
    for epoch in range(recipe.epochs):
        losses = []
        for rows, layout, total in batches(labels, recipe, seed=seed, draw=draw, epoch=epoch):
            schedule = schedule or cosine_lr(optimizer, recipe.lr, recipe.warmup, total * recipe.epochs)
            schedule(step)
            optimizer.zero_grad()
            loss = loss_of(rows, epoch, layout)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                if isinstance(scale := getattr(model, "logit_scale", None), Tensor):
                    scale.clamp_(0, math.log(100))
            if averaged is not None:
                averaged.update_parameters(model)
            losses.append(loss.item())
            step += 1
        last = float(np.mean(losses))
    if averaged is not None:
        model.load_state_dict(averaged.module.state_dict())
    model.eval()
    return last


def batches(
    labels: Sequence[str], recipe: Recipe, *, seed: int, draw: int, epoch: int
) -> Iterator[tuple[Tensor, SegmentLayout, int]]:
    """(rows of the training set, layout, number of batches) of every global batch, as the plan says."""
    if recipe.ordinary:
        drawn = seeds.generator(seed, ORDINARY, draw, epoch).random(len(labels)) < recipe.ordinary
        labels = ["" if each else label for label, each in zip(labels, drawn.tolist(), strict=True)]
    names = sorted(set(labels))
    number = {name: index for index, name in enumerate(names)}
    members: list[list[int]] = [[] for _ in names]
    for row, label in enumerate(labels):
        members[number[label]].append(row)
    plan = make_plan(
        names,
        np.arange(len(names)),
        np.array([len(each) for each in members]),
        seed=seed,
        stage=draw,
        epoch=epoch,
        global_batch=recipe.batch,
        policy=Policy(leftovers=recipe.leftovers, min_segment=recipe.min_segment),
    )
    for turn in range(len(plan)):
        batch = plan[turn]
        rows = [
            members[shard][ordinal] for shard, ordinal in zip(batch.shard.tolist(), batch.ordinal.tolist(), strict=True)
        ]
        yield torch.tensor(rows), batch.layout, len(plan)
