"""One weight a stage, fitted on pairs that no stage was trained on: pure functions of embeddings.

The fused cosine is the weighted mean of the stages' cosines (`fuse_embeddings`, mean-cosine), so an earlier stage votes
on features to which it is blind. The weights here minimise the contrastive loss of that cosine with negatives of the
same pseudo-label, among which the last stage was trained to tell. (From anywhere, or from clusters made anew, the
weights come out nearly equal, and worse: docs/results.md.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mcl_clip.errors import UserError

BLOCK = 1024  # pairs of one pseudo-label that are compared with each other at once: bounds the memory
FLOOR = 1e-3  # of all weight: no stage is left with none, so any subset of stages is a model
_START, _ITERATIONS = 20.0, 100


@dataclass(frozen=True)
class Fit:
    """`weights` are shares of one, a stage each; the mean loss over `pairs` pairs before (equal weights) and after,
    each at its best temperature, with negatives of one of `labels` pseudo-labels."""

    weights: tuple[float, ...]
    pairs: int
    labels: int
    loss_before: float
    loss_after: float


def is_idle(weight: float) -> bool:
    """Whether a stage of this share has almost no weight."""
    return weight < 2 * FLOOR


def fit_weights(
    images: Sequence[Tensor], texts: Sequence[Tensor], captions: Sequence[str], labels: Sequence[int]
) -> Fit:
    """Fit on unit embeddings of n pairs, each fp32 [n, D_s], a tensor a stage; `labels` numbers the pairs'
    pseudo-labels.

    A pair's negatives have its label and another caption; pairs without any count for nothing. Raises `UserError` when
    there are too few pairs, or none has a negative.
    """
    stages = len(images)
    _, label, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    _, caption = np.unique(np.array(captions), return_inverse=True)
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(sizes)[:-1])
    rows = [chunk for each in members for chunk in torch.from_numpy(each).split(BLOCK)]
    blocks = [_block(images, texts, chunk, torch.from_numpy(caption)) for chunk in rows]
    blocks = [block for block in blocks if not block.same.all()]
    pairs = sum(len(block.same) for block in blocks)
    if pairs <= 2 * stages:
        raise UserError(
            f"--fit-on has {pairs} pairs with negatives (of {len(captions)}; others share their caption, or are alone "
            f"with their pseudo-label), too few for {stages} stages: bring more than {2 * stages}"
        )
    equal, before = _minimise(blocks, stages, tied=True)
    fitted, after = _minimise(blocks, stages, tied=False)
    if after > before:
        fitted, after = equal, before
    shares = (fitted / fitted.sum()).clamp_min(FLOOR)
    return Fit(tuple((shares / shares.sum()).tolist()), pairs, len(sizes), before, after)


@dataclass(frozen=True)
class _Block:
    """Cosines [S, n, n] of images with texts, a stage each, and whether two pairs say the same [n, n]."""

    cosines: Tensor
    same: Tensor


def _block(images: Sequence[Tensor], texts: Sequence[Tensor], rows: Tensor, caption: Tensor) -> _Block:
    cosines = torch.stack([u[rows].double() @ v[rows].double().T for u, v in zip(images, texts, strict=True)])
    return _Block(cosines, caption[rows][:, None] == caption[rows])


def _minimise(blocks: Sequence[_Block], stages: int, tied: bool) -> tuple[Tensor, float]:
    """Positive weights [S], times the inverse temperature, of the least loss; all equal when `tied`."""
    logs = torch.full((1 if tied else stages,), float(np.log(_START / stages)), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], max_iter=_ITERATIONS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(logs.exp().expand(stages), blocks)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    weights = logs.detach().exp().expand(stages).clone()
    return weights, float(_loss(weights, blocks))


def _loss(weights: Tensor, blocks: Sequence[_Block]) -> Tensor:
    """The contrastive loss, both ways, of the weighted sum over stages, a mean over the pairs of all blocks."""
    total, count = weights.new_zeros(()), 0
    for block in blocks:
        others = block.same & ~torch.eye(len(block.same), dtype=torch.bool)
        logits = torch.einsum("s,sij->ij", weights, block.cosines).masked_fill(others, -torch.inf)
        target = torch.arange(len(logits))
        total = total + (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2 * len(logits)
        count += len(logits)
    return total / count
