"""What a step reports about its negatives."""

import torch
from torch import Tensor

from mcl_clip.errors import UserError
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


def identical_caption_share(layout: SegmentLayout, text_ids: Tensor, world_size: int = 1) -> float:
    """Share of a global batch's anchors that have a negative with the same caption: false negatives.

    text_ids: [G/W, context] token ids of this rank's samples, in position order; with several ranks, all of them call
    this. Reads the device. Raises `UserError` when the captions are not as many as the layout's positions.
    """
    ids = gather_all(caption_ids(text_ids, len(text_ids)), world_size)
    if len(ids) != layout.size:
        raise UserError(f"{len(ids)} captions over {world_size} ranks for a segment layout of {layout.size} positions")
    segments = torch.arange(len(layout.lengths)).repeat_interleave(torch.tensor(layout.lengths))
    keys = torch.stack((segments, ids.cpu()), 1)
    _, inverse, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).double().mean())
