"""Sums of cross-entropies over blocks of logits, with their gradients.

A logarithm of a sum of exponentials is kept as (largest, sum), the sum that of exp(logit - largest): subtracting a
positive from `largest` first loses no digits of an easy anchor's loss, and a softmax adds up to one.
"""

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
        total += _at_once(pairs, block) if len(strips) == 1 else _in_strips(pairs, block, strips)
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
            positives = block.positives(logits, start).clone()
            largest = logits.amax(2, keepdim=True)
            exponentials = logits.sub_(largest).exp_()
            sums = exponentials.sum(2, keepdim=True)
            total += _cross_entropy(largest.squeeze(2), sums, positives)
            if pairs.differentiable:
                gradient = exponentials.div_(sums)
                block.positives(gradient, start).sub_(1)
                pairs.add_gradient(block, start, stop, gradient)
    return total / divisor, pairs.gradients(divisor)


def _at_once(pairs: Pairs, block: Block) -> Tensor:
    """Sum over a block's rows and columns; the gradient reuses the exponentials."""
    logits = pairs.logits(block, 0, block.rows)
    positives = block.positives(logits, 0).clone()
    column_largest = logits.amax(1, keepdim=True)
    by_column = (logits - column_largest).exp_()
    column_sums = by_column.sum(1, keepdim=True)
    row_largest = logits.amax(2, keepdim=True)
    by_row = logits.sub_(row_largest).exp_()
    row_sums = by_row.sum(2, keepdim=True)
    if pairs.differentiable:
        gradient = by_row.div_(row_sums).addcdiv_(by_column, column_sums)
        block.positives(gradient, 0).sub_(2)
        pairs.add_gradient(block, 0, block.rows, gradient)
    by_rows = _cross_entropy(row_largest.squeeze(2), row_sums, positives)
    return by_rows + _cross_entropy(column_largest.squeeze(1), column_sums, positives)


def _in_strips(pairs: Pairs, block: Block, strips: Sequence[tuple[int, int]]) -> Tensor:
    """The same in the memory of a strip: column sums build up over a first pass, a second takes the gradient."""
    total = pairs.zeros()
    shape = block.count, 1, block.columns
    column_largest = torch.full(shape, torch.finfo(pairs.dtype).min, dtype=pairs.dtype, device=pairs.device)
    column_sums = torch.zeros_like(column_largest)
    all_positives, row_parts = [], []
    for start, stop in strips:
        logits = pairs.logits(block, start, stop)
        positives = block.positives(logits, start).clone()
        before, column_largest = column_largest, torch.maximum(column_largest, logits.amax(1, keepdim=True))
        column_sums *= (before - column_largest).exp_()
        column_sums += (logits - column_largest).exp_().sum(1, keepdim=True)
        row_largest = logits.amax(2, keepdim=True)
        row_sums = logits.sub_(row_largest).exp_().sum(2, keepdim=True)
        total += _cross_entropy(row_largest.squeeze(2), row_sums, positives)
        all_positives.append(positives)
        row_parts.append((row_largest, row_sums))
    total += _cross_entropy(column_largest.squeeze(1), column_sums, torch.cat(all_positives, 1))
    if pairs.differentiable:
        for (start, stop), (row_largest, row_sums) in zip(strips, row_parts, strict=True):
            logits = pairs.logits(block, start, stop)
            by_column = (logits - column_largest).exp_()
            gradient = logits.sub_(row_largest).exp_().div_(row_sums).addcdiv_(by_column, column_sums)
            block.positives(gradient, start).sub_(2)
            pairs.add_gradient(block, start, stop, gradient)
    return total


def _cross_entropy(largest: Tensor, sums: Tensor, positives: Tensor) -> Tensor:
    return sums.log().sum() + (largest - positives).sum()
