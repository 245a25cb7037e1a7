"""Softmax cross-entropy of the logits of pairs, strip by strip.

A logarithm of a sum of exponentials is kept as (largest, sum), the sum that of exp(logit - largest): subtracting a
positive from `largest` first loses no digits of an easy anchor's loss, and a softmax adds up to one.
"""

from torch import Tensor

from mcl_clip.loss.pairs import Pairs


def along_rows(pairs: Pairs) -> Tensor:
    """Sum of cross-entropies along rows: of each anchor among its candidates."""
    total = pairs.zero()
    for block in pairs.blocks:
        if block.columns == pairs.views:
            continue
        for strip in pairs.strips(block):
            logits = pairs.logits(strip)
            positives = strip.positives(logits).clone().flatten(1)
            largest = logits.amax(2, keepdim=True)
            exponentials = logits.sub_(largest).exp_()
            sums = exponentials.sum(2, keepdim=True)
            total += cross_entropy(largest.squeeze(2), sums, positives)
            if any(pairs.wanted):
                gradient = exponentials.div_(sums)
                strip.positives(gradient).sub_(1)
                pairs.add_gradient(strip, gradient)
    return total


def cross_entropy(largest: Tensor, sums: Tensor, positives: Tensor) -> Tensor:
    """Sum over anchors of log(sum) + largest - positive."""
    return sums.log().sum() + (largest - positives).sum()
