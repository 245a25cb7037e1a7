"""The softmax (CLIP) loss of a stage: an anchor's negatives come from its own segment only."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mcl_clip.loss.blocks import Block
from mcl_clip.loss.gather import gather_all, gather_with_gradient, gather_with_own_gradient
from mcl_clip.loss.pairs import Pairs, scalar_loss
from mcl_clip.loss.segment_loss import SegmentLoss
from mcl_clip.loss.softmax import along_rows, cross_entropy


class MCLClipLoss(SegmentLoss):
    """open_clip's ClipLoss within the segments of the global batch (equation and modes in docs/loss.md).

    local_loss, gather_with_grad: as of `open_clip.ClipLoss`, in value and gradient. A `logit_bias` cancels in a
    softmax: its gradient is zero. Other arguments and errors: as of `SegmentLoss`.
    """

    def __init__(self, *, local_loss: bool = False, gather_with_grad: bool = False, **shared: Any) -> None:
        super().__init__(**shared)
        self.local_loss, self.gather_with_grad = local_loss, gather_with_grad

    def _loss(self, images, texts, scale, bias, layout, ids) -> Tensor:
        all_images, all_texts = self._gather(images), self._gather(texts)
        loss_of = partial(scalar_loss, layout=layout, block_memory=self.block_memory)
        if self.local_loss and self.world_size > 1:
            place = {"first": self.rank * len(images), "divisor": 2 * len(images), "ids": ids}
            loss = loss_of(along_rows, images, all_texts, scale, None, **place)
            loss = loss + loss_of(along_rows, texts, all_images, scale, None, **place)
        else:
            ids = ids and (ids[1], ids[1])
            loss = loss_of(
                _both_directions, all_images, all_texts, scale, None, first=0, divisor=2 * layout.size, ids=ids
            )
        return loss if bias is None else loss + 0 * bias

    def _gather(self, features: Tensor) -> Tensor:
        if self.world_size == 1:
            return features
        if self.gather_with_grad:
            return gather_with_gradient(features, self.world_size)
        if self.local_loss:
            return gather_all(features, self.world_size)
        return gather_with_own_gradient(features, self.rank, self.world_size)


def _both_directions(pairs: Pairs) -> Tensor:
    """Sum of cross-entropies along rows and along columns of whole segments.

    A block that fits the memory budget needs three matrix products; a larger one is recomputed in strips once its
    column sums are known: four.
    """
    total = pairs.zero()
    for block in pairs.blocks:
        if block.columns > 1:
            total += (_at_once if block.fits(pairs.max_logits) else _in_strips)(pairs, block)
    return total


def _at_once(pairs: Pairs, block: Block) -> Tensor:
    """Sum over a block's rows and columns; the gradient reuses the exponentials."""
    (strip,) = pairs.strips(block)
    logits = pairs.logits(strip)
    positives = strip.positives(logits).clone()
    column_largest = logits.amax(1, keepdim=True)
    by_column = (logits - column_largest).exp_()
    column_sums = by_column.sum(1, keepdim=True)
    row_largest = logits.amax(2, keepdim=True)
    by_row = logits.sub_(row_largest).exp_()
    row_sums = by_row.sum(2, keepdim=True)
    if any(pairs.wanted):
        gradient = by_row.div_(row_sums).addcdiv_(by_column, column_sums)
        strip.positives(gradient).sub_(2)
        pairs.add_gradient(strip, gradient)
    by_rows = cross_entropy(row_largest.squeeze(2), row_sums, positives)
    return by_rows + cross_entropy(column_largest.squeeze(1), column_sums, positives)


def _in_strips(pairs: Pairs, block: Block) -> Tensor:
    """The same in the memory of a strip: column sums build up over a first pass, a second takes the gradient."""
    total = pairs.zero()
    column_largest = total.new_full((1, 1, block.columns), torch.finfo(pairs.dtype).min)
    column_sums = torch.zeros_like(column_largest)
    all_positives, row_parts = [], []
    for strip in pairs.strips(block):
        logits = pairs.logits(strip)
        positives = strip.positives(logits).clone()
        before, column_largest = column_largest, torch.maximum(column_largest, logits.amax(1, keepdim=True))
        column_sums *= (before - column_largest).exp_()
        column_sums += (logits - column_largest).exp_().sum(1, keepdim=True)
        row_largest = logits.amax(2, keepdim=True)
        row_sums = logits.sub_(row_largest).exp_().sum(2, keepdim=True)
        total += cross_entropy(row_largest.squeeze(2), row_sums, positives)
        all_positives.append(positives)
        row_parts.append((row_largest, row_sums))
    total += cross_entropy(column_largest.squeeze(1), column_sums, torch.cat(all_positives, 1))
    if any(pairs.wanted):
        for strip, (row_largest, row_sums) in zip(pairs.strips(block), row_parts, strict=True):
            logits = pairs.logits(strip)
            by_column = (logits - column_largest).exp_()
            gradient = logits.sub_(row_largest).exp_().div_(row_sums).addcdiv_(by_column, column_sums)
            strip.positives(gradient).sub_(2)
            pairs.add_gradient(strip, gradient)
    return total
