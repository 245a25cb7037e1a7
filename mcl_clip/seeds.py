"""Random numbers as pure functions of integers: nothing reads or moves a global random state."""

import hashlib

import numpy as np


def generator(*entropy: int) -> np.random.Generator:
    """Philox generator of the given non-negative integers, for example (seed, stage, epoch, bucket)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def words(count: int, *entropy: int) -> np.ndarray:
    """`count` independent uint64 words derived from the given non-negative integers."""
    return np.random.SeedSequence(entropy).generate_state(count, np.uint64)


def number_of(text: str) -> int:
    """A 64-bit integer that depends on every byte of `text`, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
