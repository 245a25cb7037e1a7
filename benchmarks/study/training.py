"""Train one model of a study: mcl_clip's plan and loss, open_clip's schedule, everything in memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.study.teaching import Images, Taught
from mcl_clip import seeds
from mcl_clip.loss.clip import MCLClipLoss
from mcl_clip.openclip.models import CLIP
from mcl_clip.openclip.schedules import cosine_lr
from mcl_clip.plan.plan import make_plan
from mcl_clip.plan.policy import Policy
from mcl_clip.plan.segments import SegmentLayout

ORDINARY = 13  # sets the random numbers of who gets ordinary negatives apart from the plan's

Loss = Callable[[Tensor, Tensor, Tensor, SegmentLayout, Tensor], Tensor]


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
    model: CLIP,
    images: Images,
    texts: Tensor,
    labels: Sequence[str],
    recipe: Recipe,
    *,
    seed: int,
    draw: int,
    loss_of: Loss | None = None,
    taught: Taught | None = None,
) -> tuple[CLIP, float]:
    """Train on negatives of the same label; returns the model in eval mode and the last epoch's loss.

    images: float [n, 3, H, W] of given rows in a given epoch. texts: token ids [N, context]. labels: one a row.
    loss_of: instead of `MCLClipLoss`, of unit features of images and texts, logit scale, layout and token ids. taught:
    instead of both, the loss of a student.
    """
    model.train()
    loss_of = loss_of or _mcl_loss(recipe.mask_identical)
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
            chosen = texts[rows]
            image_features, text_features, scale = model(images(rows, epoch), chosen)
            if taught:
                loss = taught(image_features, text_features, scale, layout, rows, epoch)
            else:
                loss = loss_of(image_features, text_features, scale, layout, chosen)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
            if averaged is not None:
                averaged.update_parameters(model)
            losses.append(loss.item())
            step += 1
        last = float(np.mean(losses))
    if averaged is not None:
        model.load_state_dict(averaged.module.state_dict())
    return model.eval(), last


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


def _mcl_loss(mask_identical: bool) -> Loss:
    loss = MCLClipLoss(mask_identical=mask_identical)

    def call(images: Tensor, texts: Tensor, scale: Tensor, layout: SegmentLayout, ids: Tensor) -> Tensor:
        return loss(images, texts, scale, segments=layout, text_ids=ids if mask_identical else None)

    return call
