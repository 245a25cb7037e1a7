"""What the losses ask of a segment layout, on the host."""

from torch import Tensor

from mcl_clip.errors import UserError
from mcl_clip.plan.segments import SegmentLayout


def check_layout(
    segments: SegmentLayout | None, image_features: Tensor, text_features: Tensor, world_size: int
) -> SegmentLayout:
    """The layout, or one segment where there is none; `UserError` when it does not fit the features."""
    if image_features.ndim != 2 or image_features.shape != text_features.shape:
        raise UserError(
            f"image features {tuple(image_features.shape)} and text features {tuple(text_features.shape)} "
            "must have one shape, [samples, dimension]"
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
