"""Sums of pairwise sigmoid losses over blocks of logits, with their gradients."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from mcl_clip.loss.blocks import Block
from mcl_clip.loss.gradients import Gradients
from mcl_clip.loss.pairs import Pairs

# softplus(x) is taken as x above this: off by 1e-13, and exp stays finite in fp32.
_LINEAR = 30.0


def all_pairs(
    tensors: Sequence[Tensor], wanted: Sequence[bool], blocks: Sequence[Block], divisor: float, **options: Any
) -> tuple[Tensor, Gradients]:
    """Sum of softplus(z) over negatives and softplus(-z) over positives, divided; a kernel of `gradients`.

    tensors: anchors (this rank's images), candidates (all texts), scale, bias; z = scale * u.v + bias, as
    in SigLIP (arXiv 2303.15343). options: as of `Pairs`.
    """
    rows, columns, scale, bias = tensors
    pairs = Pairs(rows, columns, scale, **options, wanted=wanted[:3])
    total, bias_grad = pairs.zeros(), pairs.zeros()
    for block in blocks:
        for start, stop in block.strips(pairs.max_logits):
            logits = pairs.logits(block, start, stop).add_(bias)
            positives = block.positives(logits, start)
            positives.neg_()
            total += F.softplus(logits, threshold=_LINEAR).sum()
            if any(wanted):
                gradient = logits.sigmoid_()
                positives.neg_()
                bias_grad += gradient.sum()
                pairs.add_gradient(block, start, stop, gradient)
    return total / divisor, (*pairs.gradients(divisor), bias_grad / divisor)
