"""What the losses are called with, checked and brought to one form on the host."""

import torch
from torch import Tensor

from mcl_clip.errors import UserError
from mcl_clip.plan.segments import SegmentLayout


def check_layout(
    segments: SegmentLayout | None, image_features: Tensor, text_features: Tensor, world_size: int
) -> SegmentLayout:
    """The layout, or one segment where there is none; `UserError` when it does not fit the features."""
    if image_features.ndim != 2 or not len(image_features) or image_features.shape != text_features.shape:
        raise UserError(
            f"image features {tuple(image_features.shape)} and text features {tuple(text_features.shape)} "
            "must have one shape, [samples, dimension], with at least one sample"
        )
    expected = len(image_features) * world_size
    segments = segments or SegmentLayout.one(expected)
    if segments.size != expected:
        raise UserError(
            f"the segment layout has {segments.size} positions in {len(segments.lengths)} segments, but "
            f"features of shape {tuple(image_features.shape)} on each of {world_size} ranks make {expected}; "
            "give the loss the layout of the whole global batch"
        )
    return segments


def as_scalar(value: Tensor | float, features: Tensor) -> Tensor:
    """A scale or bias as a tensor of no dimensions beside the features, at least in fp32."""
    if isinstance(value, Tensor):
        return value.to(features.device).reshape(())
    # Filled on the device: a copy from the host could wait for it.
    dtype = torch.promote_types(features.dtype, torch.float32)
    return torch.full((), value, dtype=dtype, device=features.device)
