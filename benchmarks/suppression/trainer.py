"""Train one model of the study: mcl_clip's plan and loss, open_clip's schedule, images in memory."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.suppression.settings import MODEL, Settings
from benchmarks.suppression.world import World
from demo.features import NAMES
from mcl_clip.clustering.kmeans import assign, fit_kmeans
from mcl_clip.loss.clip import MCLClipLoss
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import CLIP
from mcl_clip.openclip.schedules import cosine_lr
from mcl_clip.plan.plan import make_plan
from mcl_clip.plan.policy import Policy
from mcl_clip.plan.segments import SegmentLayout


def new_model(settings: Settings, seed: int, draw: int) -> CLIP:
    """The demo's model with random weights of (seed, draw)."""
    config = get_model_config(MODEL)
    config["embed_dim"] = settings.embed_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + draw)
        return CLIP(**config)


def train(
    model: CLIP,
    world: World,
    labels: list[str],
    settings: Settings,
    *,
    min_segment: int,
    seed: int,
    draw: int,
    shares: int,
) -> tuple[CLIP, float]:
    """Train on negatives of the same label; returns the model in eval mode and the last epoch's loss."""
    model.train()
    loss_of = MCLClipLoss()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    spared = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": settings.wd}],
        lr=settings.lr,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,
    )
    epochs = settings.epochs * shares
    schedule, step, last = None, 0, math.nan
    for epoch in range(epochs):
        losses = []
        for rows, layout, total in batches(
            labels, settings, min_segment=min_segment, seed=seed, draw=draw, epoch=epoch
        ):
            schedule = schedule or cosine_lr(optimizer, settings.lr, settings.warmup, total * epochs)
            schedule(step)
            optimizer.zero_grad()
            images, texts, scale = model(world.train.images[rows], world.captions[rows])
            loss = loss_of(images, texts, scale, segments=layout)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
            losses.append(loss.item())
            step += 1
        last = float(np.mean(losses))
    return model.eval(), last


def batches(
    labels: list[str], settings: Settings, *, min_segment: int, seed: int, draw: int, epoch: int
) -> Iterator[tuple[torch.Tensor, SegmentLayout, int]]:
    """(rows of the training set, layout, number of batches) of every global batch, as the plan says."""
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
        global_batch=settings.batch,
        policy=Policy(leftovers=settings.leftovers, min_segment=min_segment),
    )
    for turn in range(len(plan)):
        batch = plan[turn]
        rows = [
            members[shard][ordinal] for shard, ordinal in zip(batch.shard.tolist(), batch.ordinal.tolist(), strict=True)
        ]
        yield torch.tensor(rows), batch.layout, len(plan)


@torch.inference_mode()
def embed(model: CLIP, images: torch.Tensor) -> torch.Tensor:
    """Raw image embeddings [N, D]."""
    return torch.cat([model.encode_image(chunk) for chunk in images.split(500)])


def cluster(model: CLIP, world: World, settings: Settings, seed: int) -> np.ndarray:
    """Cluster of every training sample."""
    features = F.normalize(embed(model, world.train.images), dim=-1).numpy()
    fitted = fit_kmeans(features, settings.clusters, seed=seed)
    return assign(features, fitted.centroids)[0]


def labels_alike(values: np.ndarray, but: str) -> list[str]:
    """Labels under which samples agree in all features but one."""
    kept = [index for index, name in enumerate(NAMES) if name != but]
    return ["-".join(map(str, row)) for row in values[:, kept].tolist()]
