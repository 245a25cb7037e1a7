"""InfoNCE with hard negatives (Robinson et al., ICLR 2021, arXiv 2010.04592), in both directions of a CLIP batch."""

import torch
from torch import Tensor

from mcl_clip.plan.segments import SegmentLayout


class HardNegatives:
    """A negative j of anchor i weighs exp(beta s_ij), s the logit, divided by the mean of that over i's negatives.

    The paper's equation 4 without its correction for false negatives (tau+ = 0). `beta` 0 is the CLIP loss.
    """

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def __call__(self, images: Tensor, texts: Tensor, scale: Tensor, layout: SegmentLayout, ids: Tensor) -> Tensor:
        """The loss of unit features [N, D] of one batch; layout and ids are not used."""
        logits = scale * images @ texts.T
        return (self._one_direction(logits) + self._one_direction(logits.T)) / 2

    def _one_direction(self, logits: Tensor) -> Tensor:
        own = torch.eye(len(logits), dtype=torch.bool)
        hardness = (self.beta * logits).masked_fill(own, -torch.inf)
        count = torch.tensor(float(len(logits) - 1))
        weight = hardness - hardness.logsumexp(1, keepdim=True) + count.log()
        reweighted = torch.where(own, logits, logits + weight)
        return (reweighted.logsumexp(1) - logits.diagonal()).mean()
