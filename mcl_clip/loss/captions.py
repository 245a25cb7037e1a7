"""Identical captions: one integer a caption, found and compared without reading the device."""

import torch
from torch import Tensor

from mcl_clip.errors import UserError

_MIX = -0x61C8864680B583EB  # 2**64 / golden ratio, as int64


def caption_ids(text_ids: Tensor | None, count: int) -> Tensor:
    """int64 [count]: equal for equal rows of `text_ids` [count, context], all but surely different for
    others.

    Raises `UserError` without one row of token ids a sample.
    """
    if text_ids is None or text_ids.ndim != 2 or len(text_ids) != count:
        shape = None if text_ids is None else tuple(text_ids.shape)
        raise UserError(f"identical captions are found by text_ids of shape ({count}, context), got {shape}")
    positions = torch.arange(text_ids.shape[1], device=text_ids.device)
    return _mixed(text_ids + _mixed(positions + 1)).sum(1)


def _mixed(integers: Tensor) -> Tensor:
    """int64, every bit of the result a function of all bits (products wrap)."""
    product = integers.long() * _MIX
    product = (product ^ (product >> 29)) * _MIX
    return product ^ (product >> 32)
