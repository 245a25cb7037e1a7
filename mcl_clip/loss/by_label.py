"""The loss for those who bring their own loader: one pseudo-label a sample, in any order."""

import torch
from torch import Tensor

from mcl_clip.errors import UserError
from mcl_clip.loss.clip import MCLClipLoss
from mcl_clip.loss.gather import gather_all, gather_with_gradient
from mcl_clip.loss.siglip import MCLSigLipLoss
from mcl_clip.plan.segments import SegmentLayout


# The layout is read from the labels on the host, as a graph cannot.
@torch.compiler.disable
def loss_by_label(
    image_features: Tensor,
    text_features: Tensor,
    labels: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | None = None,
    loss: MCLClipLoss | MCLSigLipLoss | None = None,
    text_ids: Tensor | None = None,
) -> Tensor:
    """Loss over this rank's features [n, D] with integer pseudo-labels [n] in any order, a scalar.

    loss: an `MCLClipLoss` (default: of one process) or `MCLSigLipLoss`. With several ranks labels may
    recur anywhere; the softmax form then needs `gather_with_grad` (else `UserError`), and features travel
    twice. Finding the segments reads `labels` on the host; a loader that knows its plan passes the layout
    to the loss instead. Raises `UserError` when labels and features do not match.
    """
    loss = loss or MCLClipLoss()
    rank, world_size, count = loss.rank, loss.world_size, len(image_features)
    if labels.shape != (count,):
        raise UserError(f"labels of shape {tuple(labels.shape)} for features of shape {tuple(image_features.shape)}")
    if world_size > 1:
        if isinstance(loss, MCLClipLoss) and not loss.gather_with_grad:
            raise UserError("loss_by_label over several ranks moves samples between them: set gather_with_grad=True")
        labels = gather_all(labels.to(image_features.device), world_size)
        image_features = gather_with_gradient(image_features, world_size)
        text_features = gather_with_gradient(text_features, world_size)
        text_ids = None if text_ids is None else gather_all(text_ids.to(image_features.device), world_size)
    order = torch.argsort(labels, stable=True)
    lengths = torch.unique_consecutive(labels[order], return_counts=True)[1]
    own = order[rank * count : (rank + 1) * count]
    place = own.to(image_features.device)
    return loss(
        image_features.index_select(0, place),
        text_features.index_select(0, place),
        logit_scale,
        logit_bias,
        segments=SegmentLayout(tuple(lengths.tolist())),
        text_ids=None if text_ids is None else text_ids[own.to(text_ids.device)],
    )
