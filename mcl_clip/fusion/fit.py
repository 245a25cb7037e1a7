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

from mcl_clip.clustering.threads import one_thread_each
from mcl_clip.errors import UserError

BLOCK = 1024  # pairs of one pseudo-label that are compared with each other at once: bounds the memory
FLOOR = 1e-3  # of all weight: no stage is left with none, so any subset of stages is a model
COLDEST = 100.0  # most inverse temperature, as CLIP's logit scale: separable pairs would have it grow for ever
_START, _ITERATIONS = 20.0, 100


@dataclass(frozen=True)
class Fit:
    """`weights` are shares of one, a stage each; the mean loss over `pairs` pairs before (equal weights), after, and of
    each stage alone, each at its best temperature, with negatives of one of `labels` pseudo-labels."""

    weights: tuple[float, ...]
    pairs: int
    labels: int
    loss_before: float
    loss_after: float
    loss_alone: tuple[float, ...]


def is_idle(weight: float) -> bool:
    """Whether a stage of this share has almost no weight."""
    return weight < 2 * FLOOR


def num_with_negatives(captions: Sequence[str], labels: Sequence[int]) -> int:
    """How many pairs have one of another caption under their label."""
    kinds: dict[int, set[str]] = {}
    for caption, label in zip(captions, labels, strict=True):
        kinds.setdefault(label, set()).add(caption)
    return sum(len(kinds[label]) > 1 for label in labels)


def fit_weights(
    images: Sequence[Tensor], texts: Sequence[Tensor], captions: Sequence[str], labels: Sequence[int]
) -> Fit:
    """Fit on unit embeddings of n pairs, each fp32 [n, D_s], a tensor a stage; `labels` numbers the pairs'
    pseudo-labels.

    A pair's negatives have its label and another caption; pairs without any count for nothing. The bits do not depend
    on the number of threads. Raises `UserError` when there are too few pairs, or none has a negative.
    """
    stages = len(images)
    _, label, sizes = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    _, caption = np.unique(np.array(captions), return_inverse=True)
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(sizes)[:-1])
    rows = [torch.from_numpy(part) for each in members for part in np.array_split(each, -(-len(each) // BLOCK))]
    with one_thread_each():
        blocks = [_block(images, texts, chunk, torch.from_numpy(caption)) for chunk in rows]
        blocks = [block for block in blocks if not block.same.all()]
        pairs = sum(len(block.same) for block in blocks)
        if pairs <= 2 * stages:
            raise UserError(
                f"{pairs} pairs with negatives (of {len(captions)} to fit on; others share their caption, or are alone "
                f"with their pseudo-label) are too few for {stages} stages: bring more than {2 * stages}"
            )
        each_alone = torch.eye(stages, dtype=torch.double)
        equal, before = _minimise(blocks, torch.ones(1, stages, dtype=torch.double) / stages)
        fitted, after = _minimise(blocks, each_alone)
        alone = tuple(_minimise(blocks, stage[None])[1] for stage in each_alone)
    if after > before:
        fitted, after = equal, before
    shares = (fitted / fitted.sum()).clamp_min(FLOOR)
    return Fit(tuple((shares / shares.sum()).tolist()), pairs, len(sizes), before, after, alone)


@dataclass(frozen=True)
class _Block:
    """Cosines [S, n, n] of images with texts, a stage each, and whether two pairs say the same [n, n]."""

    cosines: Tensor
    same: Tensor


def _block(images: Sequence[Tensor], texts: Sequence[Tensor], rows: Tensor, caption: Tensor) -> _Block:
    cosines = torch.stack([u[rows].double() @ v[rows].double().T for u, v in zip(images, texts, strict=True)])
    return _Block(cosines, caption[rows][:, None] == caption[rows])


def _minimise(blocks: Sequence[_Block], directions: Tensor) -> tuple[Tensor, float]:
    """Weights [S], times the inverse temperature, of the least loss among positive sums of `directions` [P, S]."""
    start = np.log(_START / len(directions))
    logs = torch.full((len(directions),), float(start), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], max_iter=_ITERATIONS, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(_weights(logs, directions), blocks)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    weights = _weights(logs.detach(), directions)
    return weights, float(_loss(weights, blocks))


def _weights(logs: Tensor, directions: Tensor) -> Tensor:
    # Shifted before `exp`, which a line search may take to where it overflows.
    shares, size = logs.softmax(0), logs.logsumexp(0)
    return shares @ directions * size.clamp_max(float(np.log(COLDEST))).exp()


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
