"""The loss for those who bring their own loader: one pseudo-label a sample, in any order."""

import torch
from torch import Tensor, nn

from mcl_clip.loss.clip import MCLClipLoss
from mcl_clip.plan.segments import SegmentLayout


def loss_by_label(
    image_features: Tensor,
    text_features: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    loss: nn.Module | None = None,
) -> Tensor:
    """Loss of one process over features [N, D] and integer pseudo-labels [N] in any order.

    loss: an `MCLClipLoss` (default) or `MCLSigLipLoss`. Finding the segments reads `labels` on the host; a loader that
    knows its plan passes the layout to the loss instead.
    """
    order = torch.argsort(labels, stable=True)
    lengths = torch.unique_consecutive(labels[order], return_counts=True)[1]
    return (loss or MCLClipLoss())(
        image_features[order],
        text_features[order],
        logit_scale,
        logit_bias,
        segments=SegmentLayout(tuple(lengths.tolist())),
    )
