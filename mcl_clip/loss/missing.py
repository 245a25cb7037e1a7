"""The loss of a global batch in which some positions hold no sample that counts."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcl_clip.loss.gather import gather_all, gather_with_gradient
from mcl_clip.plan.segments import SegmentLayout


def loss_without(
    missing: Sequence[int],
    loss: nn.Module,
    image_features: Tensor,
    text_features: Tensor,
    *,
    segments: SegmentLayout,
    text_ids: Tensor | None = None,
    **scalars: Any,
) -> Tensor:
    """`loss` over the positions of a global batch that are not `missing`, on every rank all of it.

    Arguments as of the loss, which is an `MCLClipLoss` or `MCLSigLipLoss` of any mode. Features of all ranks are
    gathered with their gradient, so that the mean over ranks has value and gradient of one process. It costs every
    rank the whole global batch, for the rare step.
    """
    alone: Any = copy.copy(loss)
    rank_count, alone.rank, alone.world_size = alone.world_size, 0, 1
    present = torch.ones(segments.size, dtype=torch.bool)
    present[list(missing)] = False
    kept = present.nonzero()[:, 0].to(image_features.device)
    if rank_count > 1:
        image_features = gather_with_gradient(image_features, rank_count)
        text_features = gather_with_gradient(text_features, rank_count)
        text_ids = None if text_ids is None else gather_all(text_ids, rank_count)
    return alone(
        image_features[kept],
        text_features[kept],
        segments=segments.without(missing),
        text_ids=None if text_ids is None else text_ids[kept],
        **scalars,
    )
