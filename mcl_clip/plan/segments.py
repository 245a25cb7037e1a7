"""Segments of a global batch, inside which the negatives live, and their layout."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True)
class Segment:
    """`length` different samples of a bucket: draws from `start` on, then `padding` samples absent from these."""

    bucket: int
    start: int
    length: int
    padding: int = 0

    @property
    def fresh(self) -> int:
        """How many draws."""
        return self.length - self.padding


@dataclass(unsafe_hash=True)  # not frozen: torch 2.7 compiles anew for every frozen one that it sees
class SegmentLayout:
    """Lengths of the contiguous segments of a global batch, in position order.

    Samples of one segment share a pseudo-label. Positions are rank-major: rank r of W holds
    [r*G/W, (r+1)*G/W). labels: the number of each segment's effective pseudo-label in its plan, where it is of one.
    Raises `ValueError` when a length is not positive.
    """

    lengths: tuple[int, ...]
    labels: tuple[int, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        self.lengths = tuple(int(length) for length in self.lengths)
        if any(length <= 0 for length in self.lengths):
            raise ValueError(f"segment lengths must be positive, got {self.lengths}")

    @staticmethod
    def one(size: int) -> "SegmentLayout":
        """The layout of plain contrastive training: one segment of `size` samples."""
        return SegmentLayout((size,))

    def without(self, positions: Iterable[int]) -> "SegmentLayout":
        """The layout of what is left when samples at some positions are taken out."""
        lost = set(positions)
        kept = [stop - start - sum(start <= at < stop for at in lost) for start, stop in self.bounds()]
        labels = (label for label, length in zip(self.labels, kept, strict=False) if length)
        return SegmentLayout(tuple(length for length in kept if length), tuple(labels))

    def times(self, count: int) -> "SegmentLayout":
        """The layout of `count` features a sample, side by side."""
        return SegmentLayout(tuple(count * length for length in self.lengths), self.labels)

    @cached_property
    def size(self) -> int:
        """Number of positions, G."""
        return sum(self.lengths)

    def bounds(self) -> tuple[tuple[int, int], ...]:
        """(start, stop) of every segment, in position order."""
        stops = tuple(accumulate(self.lengths))
        return tuple(zip((0, *stops[:-1]), stops, strict=True)) if stops else ()
