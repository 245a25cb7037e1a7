"""What a step reports about its negatives."""

import torch
from torch import Tensor

from mcl_clip.loss.captions import caption_ids
from mcl_clip.loss.gather import gather_all
from mcl_clip.plan.segments import SegmentLayout


def negatives(layout: SegmentLayout) -> dict[str, float]:
    """negatives_min, negatives_mean (per anchor), share_without_negatives (of the anchors), segments."""
    return {
        "negatives_min": min(layout.lengths) - 1,
        "negatives_mean": sum(length * (length - 1) for length in layout.lengths) / layout.size,
        "share_without_negatives": sum(length == 1 for length in layout.lengths) / layout.size,
        "segments": len(layout.lengths),
    }


def identical_caption_share(layout: SegmentLayout, text_ids: Tensor, first: int = 0, world_size: int = 1) -> float:
    """Share of anchors that have a negative with the same caption: false negatives.

    text_ids: [n, context] token ids of positions [first, first + n). With `world_size` > 1 every rank
    calls this with its own part, and the captions of all are compared; otherwise what lies outside the
    given positions is not seen. Reads the device.
    """
    ids = caption_ids(text_ids, len(text_ids))
    if world_size > 1:
        ids, first = gather_all(ids, world_size), 0
    ids = ids.cpu()
    stops = torch.tensor([stop for _, stop in layout.bounds()])
    segment = torch.searchsorted(stops, torch.arange(first, first + len(ids)), right=True)
    _, inverse, counts = torch.unique(torch.stack((segment, ids), 1), dim=0, return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).double().mean()) if len(ids) else 0.0
