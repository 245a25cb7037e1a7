"""Which samples k-means is fitted on: a choice by hash of the key, so that no order, rank or worker
matters.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np


def key_hashes(shard: str, keys: Sequence[str], seed: int) -> np.ndarray:
    """One uint64 a sample, uniform and fixed by (seed, shard, key)."""
    prefix = hashlib.blake2b(f"{seed}\0{shard}\0".encode(), digest_size=8)
    hashes = np.empty(len(keys), np.uint64)
    for row, key in enumerate(keys):
        state = prefix.copy()
        state.update(key.encode())
        hashes[row] = int.from_bytes(state.digest(), "little")
    return hashes


def hash_limit(num_samples: int, capacity: int) -> int | None:
    """Samples whose hash is below this limit are chosen; None: all are, because they fit.

    The expected number is four standard deviations under `capacity`, so that a shard decides without knowing
    the others; the rare excess is cut by `smallest`.
    """
    if num_samples <= capacity:
        return None
    return int(max(capacity - 4 * math.sqrt(capacity), capacity / 2) / num_samples * 2**64)


def choose(hashes: np.ndarray, limit: int | None) -> np.ndarray:
    """Rows (int64, ascending) whose hash is below `limit`."""
    return np.arange(len(hashes)) if limit is None else np.flatnonzero(hashes < np.uint64(limit))


def smallest(hashes: np.ndarray, capacity: int) -> np.ndarray:
    """Rows (ascending) of the `capacity` smallest hashes."""
    return np.sort(np.argsort(hashes, kind="stable")[:capacity])
