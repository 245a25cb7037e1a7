"""Shards whose samples get ordinary negatives in an epoch, whatever their pseudo-label."""

from collections.abc import Sequence

import numpy as np

from mcl_clip.seeds import generator

ORDINARY = ""
"""The label of ordinary batches, that of a source's samples too."""


def with_ordinary(
    label_paths: Sequence[str], shard_label: np.ndarray, share: float, entropy: tuple[int, ...]
) -> tuple[list[str], np.ndarray]:
    """The labels and each shard's, an expected `share` of the shards being `ORDINARY`: a pure function."""
    words = generator(*entropy).bit_generator.random_raw(len(shard_label))
    drawn = words < np.uint64(min(int(share * 2**64), 2**64 - 1))
    return [*label_paths, ORDINARY], np.where(drawn, len(label_paths), shard_label)
