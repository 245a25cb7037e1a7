"""Which logits exist: the blocks of a segment layout, short segments of like lengths batched."""

from collections.abc import Iterator
from dataclasses import dataclass

from mcl_clip.plan.segments import SegmentLayout

# The shortest segment of a batch is at least this share of the longest, to whose length all are padded.
SHORTEST = 0.8


@dataclass(frozen=True)
class Block:
    """The anchors of one segment against the whole of it; or several whole segments, padded to one length.

    starts, lengths: the segments' anchors, as feature rows. Candidates are `columns` feature rows a segment,
    the first of them `shift` after its first anchor; the positive of anchor i is candidate `diagonal` + i.
    """

    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    columns: int
    shift: int
    diagonal: int = 0

    @property
    def rows(self) -> int:
        """Anchors a segment, padding included."""
        return max(self.lengths)

    @property
    def is_even(self) -> bool:
        """Whether the segments are neighbours of one length, so that all of them are one view."""
        return all(start == self.starts[0] + i * self.rows for i, start in enumerate(self.starts)) and (
            min(self.lengths) == self.rows
        )

    def fits(self, max_logits: int) -> bool:
        """Whether its logits number at most `max_logits`."""
        return len(self.starts) * self.rows * self.columns <= max_logits

    def strips(self, max_logits: int, views: int = 1) -> Iterator[tuple[int, int]]:
        """(start, stop) of runs of anchors with at most `max_logits` logits, but one sample a segment at least.

        The `views` anchors of a sample stay together.
        """
        height = max(1, max_logits // (len(self.starts) * self.columns * views)) * views
        for start in range(0, self.rows, height):
            yield start, min(start + height, self.rows)


def blocks_of(layout: SegmentLayout, start: int, stop: int, dim: int, max_elements: int) -> list[Block]:
    """Blocks of the anchors at positions [start, stop) of a global batch; rows count from there, columns from 0.

    Features of `dim` and logits of a batch number at most `max_elements`. A segment that reaches beyond the anchors
    is a block by itself.
    """
    blocks: list[Block] = []
    batch: list[tuple[int, int]] = []
    for low, high in sorted(layout.bounds(), key=lambda bounds: bounds[0] - bounds[1]):
        first, last = max(low, start), min(high, stop)
        if first >= last:
            continue
        if last - first < high - low:
            blocks.append(Block((first - start,), (last - first,), high - low, low - first + start, first - low))
            continue
        longest = batch[0][1] if batch else 0
        elements = (len(batch) + 1) * longest * (longest + 2 * dim)
        if batch and (high - low < SHORTEST * longest or elements > max_elements):
            blocks.append(_batched(batch, start))
            batch = []
        batch.append((low - start, high - low))
    return [*blocks, _batched(batch, start)] if batch else blocks


def _batched(segments: list[tuple[int, int]], shift: int) -> Block:
    starts, lengths = zip(*segments, strict=True)
    return Block(starts, lengths, lengths[0], shift)
