"""Equal captions: one integer a caption, so that a loss can leave false negatives out."""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from mcl_clip.seeds import words

_SALT = 0x6D636C


def caption_ids(text_ids: Tensor | None, count: int) -> Tensor:
    """int64 [count]: equal for equal rows of `text_ids` [count, context], different otherwise but for 1 in 2**63.

    Raises `ValueError` without token ids.
    """
    if text_ids is None or len(text_ids) != count:
        shape = None if text_ids is None else tuple(text_ids.shape)
        raise ValueError(f"mask_identical needs text_ids of {count} captions, got {shape}")
    weights = words(text_ids.shape[1], _SALT).astype(np.int64) | 1
    return (text_ids.long() * torch.from_numpy(weights).to(text_ids.device)).sum(1)


def gather_ids(ids: Tensor | None, world_size: int) -> Tensor | None:
    """The ids of all ranks, in position order."""
    if ids is None:
        return None
    gathered = [torch.empty_like(ids) for _ in range(world_size)]
    dist.all_gather(gathered, ids)
    return torch.cat(gathered)
