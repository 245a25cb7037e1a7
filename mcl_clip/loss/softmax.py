"""Sums of cross-entropies over blocks of logits, with their gradients."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mcl_clip.loss.blocks import Block
from mcl_clip.loss.gradients import Gradients
from mcl_clip.loss.pairs import Pairs


def both_directions(
    tensors: Sequence[Tensor], wanted: Sequence[bool], blocks: Sequence[Block], divisor: float, **options: Any
) -> tuple[Tensor, Gradients]:
    """Cross-entropy along rows plus along columns of square blocks, summed and divided; a kernel of
    `gradients`.

    tensors: image features, text features (both whole), scale. options: as of `Pairs`. A block that fits
    the memory budget needs three matrix products; a larger one is recomputed in strips once its column
    sums are known: four.
    """
    rows, columns, scale = tensors
    pairs = Pairs(rows, columns, scale, **options, wanted=wanted)
    total = pairs.zeros()
    for block in blocks:
        if block.columns == 1:
            continue
        strips = list(block.strips(pairs.max_logits))
        column_lse = torch.full((block.count, block.columns), -torch.inf, dtype=pairs.dtype, device=pairs.device)
        row_lse = []
        for start, stop in strips:
            logits = pairs.logits(block, start, stop)
            row_lse.append(logits.logsumexp(2))
            column_lse = torch.logaddexp(column_lse, logits.logsumexp(1))
            total += row_lse[-1].sum() - 2 * block.positives(logits, start).sum()
        total += column_lse.sum()
        if not pairs.differentiable:
            continue
        for (start, stop), lse in zip(strips, row_lse, strict=True):
            if len(strips) > 1:
                logits = pairs.logits(block, start, stop)
            gradient = (logits - lse[:, :, None]).exp_()
            gradient += logits.sub_(column_lse[:, None, :]).exp_()
            block.positives(gradient, start).sub_(2)
            pairs.add_gradient(block, start, stop, gradient)
    return total / divisor, pairs.gradients(divisor)


def one_direction(
    tensors: Sequence[Tensor], wanted: Sequence[bool], blocks: Sequence[Block], divisor: float, **options: Any
) -> tuple[Tensor, Gradients]:
    """Cross-entropy along rows of rectangular blocks, summed and divided; a kernel of `gradients`.

    tensors: anchors (this rank's), candidates (all ranks'), scale. options: as of `Pairs`.
    """
    rows, columns, scale = tensors
    pairs = Pairs(rows, columns, scale, **options, wanted=wanted)
    total = pairs.zeros()
    for block in blocks:
        if block.columns == 1:
            continue
        for start, stop in block.strips(pairs.max_logits):
            logits = pairs.logits(block, start, stop)
            lse = logits.logsumexp(2)
            total += lse.sum() - block.positives(logits, start).sum()
            if pairs.differentiable:
                gradient = logits.sub_(lse[:, :, None]).exp_()
                block.positives(gradient, start).sub_(1)
                pairs.add_gradient(block, start, stop, gradient)
    return total / divisor, pairs.gradients(divisor)
