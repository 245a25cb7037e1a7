"""Which logits exist: the blocks of a segment layout, and the strips in which a large block is computed."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from mcl_clip.plan.segments import SegmentLayout

# Equal neighbours are multiplied as one batch while their logits fit a processor's cache; beyond that a loop
# is as fast and takes less memory.
BATCHED_LOGITS = 1 << 20


@dataclass(frozen=True)
class Block:
    """`count` neighbouring blocks of one shape: `rows` anchors against the `columns` of their segment.

    Anchors are the feature rows [row_start, row_start + count * rows), candidates the feature rows
    [column_start, column_start + count * columns). The positive of a block's row i is its column
    `diagonal` + i.
    """

    row_start: int
    column_start: int
    rows: int
    columns: int
    diagonal: int
    count: int = 1

    def of_rows(self, tensor: Tensor) -> Tensor:
        """The anchors' part of a tensor [all rows, ...] as a view [count, rows, ...]."""
        return _part(tensor, self.row_start, self.count, self.rows)

    def of_columns(self, tensor: Tensor) -> Tensor:
        """The candidates' part of a tensor [all columns, ...] as a view [count, columns, ...]."""
        return _part(tensor, self.column_start, self.count, self.columns)

    def positives(self, logits: Tensor, start: int) -> Tensor:
        """The positives [count, height] of the rows from `start`, a view of logits [count, height,
        columns]."""
        return logits.narrow(2, self.diagonal + start, logits.shape[1]).diagonal(dim1=1, dim2=2)

    def strips(self, max_logits: int) -> Iterator[tuple[int, int]]:
        """(start, stop) of runs of rows whose logits number at most `max_logits`, but of one row at least."""
        height = max(1, max_logits // (self.columns * self.count))
        for start in range(0, self.rows, height):
            yield start, min(start + height, self.rows)


def blocks_of(layout: SegmentLayout, start: int, stop: int) -> list[Block]:
    """Blocks of the anchors at positions [start, stop) of a global batch, against their whole segments.

    Rows count from `start`, columns from 0. Neighbours of one shape are batched up to `BATCHED_LOGITS`
    logits.
    """
    blocks: list[Block] = []
    for low, high in layout.bounds():
        first, last = max(low, start), min(high, stop)
        if first >= last:
            continue
        block = Block(first - start, low, last - first, high - low, first - low)
        if blocks and _continues(blocks[-1], block):
            head = blocks.pop()
            block = Block(head.row_start, head.column_start, head.rows, head.columns, 0, head.count + 1)
        blocks.append(block)
    return blocks


def _continues(head: Block, block: Block) -> bool:
    whole = head.rows == head.columns == block.rows == block.columns
    return whole and (head.count + 1) * block.rows * block.columns <= BATCHED_LOGITS


def _part(tensor: Tensor, start: int, count: int, length: int) -> Tensor:
    return tensor.narrow(0, start, count * length).unflatten(0, (count, length))
