"""Whole groups set apart: every sample of a caption, or none."""

import hashlib

from mcl_clip import seeds

UNSEEN, FIT = range(2)  # what for: two shares of the same captions are drawn independently


def is_apart(group: str, share: float, *entropy: int) -> bool:
    """Whether a group belongs to the `share` of groups that is set apart: a pure function of its arguments."""
    return int(seeds.words(1, *entropy, number_of(group))[0]) < share * 2**64


def number_of(text: str) -> int:
    """A 64-bit integer that depends on every byte of `text`, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
