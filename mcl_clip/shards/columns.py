"""Tables of a directory, memory-mapped, and their text columns as sequences: what is not asked for is not copied."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from mcl_clip.artifacts import atomic_path

ROWS_AT_ONCE = 1 << 16


class Strings(Sequence[str]):
    """A text column, each value through `each`; compares equal to a list of the same."""

    def __init__(self, column: pa.ChunkedArray, each: Callable[[str], str] | None = None):
        self._column, self._each = column, each

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(Strings(self._column[index], self._each))
        value = self._column[int(index)].as_py()
        return self._each(value) if self._each else value

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            values = self._column.slice(start, ROWS_AT_ONCE).to_pylist()
            yield from map(self._each, values) if self._each else values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))  # noqa: B905

    __hash__ = None  # type: ignore[assignment]


def write_table(path: str | os.PathLike, table: pa.Table) -> None:
    """Write a table as an uncompressed Arrow IPC file, in one piece, atomically."""
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table.combine_chunks(), max_chunksize=max(len(table), 1))


def map_table(path: str | os.PathLike) -> pa.Table:
    """The table of such a file, memory-mapped; raises what pyarrow raises."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()
