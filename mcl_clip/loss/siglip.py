"""The sigmoid (SigLIP) loss of a stage: pairs across segments are dropped."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mcl_clip.loss.gather import gather_with_gradient
from mcl_clip.loss.pairs import Pairs, scalar_loss
from mcl_clip.loss.segment_loss import SegmentLoss

# softplus(x) is taken as x above this: off by 1e-13, and exp stays finite in fp32.
_LINEAR = 30.0


class MCLSigLipLoss(SegmentLoss):
    """open_clip's SigLipLoss within the segments of the global batch (docs/loss.md; arXiv 2303.15343).

    The sum over this rank's images and the texts of their segments, divided by G/W: averaged over ranks, the sum over
    all pairs inside segments divided by G. One gather of the text features with gradient replaces open_clip's
    neighbour exchanges, with the same value and gradient. Arguments and errors: as of `SegmentLoss`.
    """

    def _loss(self, images, texts, scale, bias, layout, ids) -> Tensor:
        return scalar_loss(
            _all_pairs,
            images,
            gather_with_gradient(texts, self.world_size),
            scale,
            bias,
            layout=layout,
            first=self.rank * len(images),
            divisor=len(images),
            ids=ids,
            block_memory=self.block_memory,
        )


def _all_pairs(pairs: Pairs) -> Tensor:
    """Sum of softplus(z) over negatives and softplus(-z) over positives, z the logits."""
    total = pairs.zero()
    for block in pairs.blocks:
        for strip in pairs.strips(block):
            logits = pairs.logits(strip)
            positives = strip.positives(logits)
            positives.neg_()
            if strip.padding is not None:
                positives.masked_fill_(strip.padding, -torch.inf)
            total += F.softplus(logits, threshold=_LINEAR).sum()
            if any(pairs.wanted):
                gradient = logits.sigmoid_()
                positives.neg_()
                pairs.add_gradient(strip, gradient)
    return total
