"""What the losses ask of a segment layout; all on the host."""

from torch import Tensor

from mcl_clip.plan.segments import SegmentLayout

Span = tuple[int, int]


def check_layout(
    segments: SegmentLayout | None, image_features: Tensor, text_features: Tensor, world_size: int
) -> SegmentLayout:
    """The layout, or one segment when there is none; `ValueError` when it does not fit the features."""
    if image_features.shape != text_features.shape:
        raise ValueError(
            f"image features {tuple(image_features.shape)} and text features {tuple(text_features.shape)} "
            "must have the same shape"
        )
    expected = len(image_features) * world_size
    segments = segments or SegmentLayout.one(expected)
    if segments.size != expected:
        raise ValueError(
            f"the layout holds {segments.size} positions in {len(segments.lengths)} segments, but the features "
            f"{tuple(image_features.shape)} on each of {world_size} ranks make {expected}"
        )
    return segments


def overlaps(segments: SegmentLayout, first: int, last: int) -> list[tuple[Span, Span]]:
    """((low, high), (start, stop)) of every segment that meets positions [first, last): the common part, the whole."""
    return [
        ((max(start, first), min(stop, last)), (start, stop))
        for start, stop in segments.bounds()
        if start < last and stop > first
    ]
