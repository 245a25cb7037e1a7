"""Whole groups set apart: every sample of a caption, or none."""

from mcl_clip import seeds

UNSEEN, FIT = range(2)  # what for: two shares of the same captions are drawn independently


def is_apart(group: str, share: float, *entropy: int) -> bool:
    """Whether a group belongs to the `share` of groups that is set apart: a pure function of its arguments."""
    return int(seeds.words(1, *entropy, seeds.number_of(group))[0]) < share * 2**64
