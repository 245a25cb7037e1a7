"""Parquet files, read row group by row group."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mcl_clip.errors import UserError
from mcl_clip.packing.rows import Columns, Row, Unit, choose_columns, file_identity

BATCH = 64  # rows decoded at a time
READ_BUFFER = 1 << 20


@dataclass
class ParquetRows:
    """The rows of parquet files, one after another; make it with `open_parquet`.

    A unit lies in one row group, or is a run of whole small ones of one file. Inside a large group there is no
    jumping, so a process that gets later and later units of one goes on where it stands.
    """

    paths: list[Path]
    columns: Columns
    identity: dict[str, Any]
    total: int
    parallel: bool = True
    _place: tuple[int, int, int] | None = field(default=None, repr=False)  # file, group, rows taken of it
    _stream: Iterator[Row] = field(default_factory=lambda: iter(()), repr=False)

    def units(self, size: int, work: Path) -> Iterator[Unit]:
        """See `Source`; only the footers are read."""
        shard = 0
        for number, path in enumerate(self.paths):
            with pq.ParquetFile(path) as file:
                groups = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            for first, rows in _runs(groups, size):
                for start in range(0, rows, size):
                    yield Unit(shard, min(size, rows - start), (number, first, start))
                    shard += 1

    def rows(self, unit: Unit, work: Path) -> Iterator[Row]:
        """See `Source`."""
        number, group, start = unit.at
        if self._place is None or self._place[:2] != (number, group) or self._place[2] > start:
            self._place, self._stream = (number, group, 0), self._read(number, group)
        next(islice(self._stream, start - self._place[2], start - self._place[2]), None)
        self._place = (number, group, start + unit.rows)
        return islice(self._stream, unit.rows)

    def _read(self, number: int, group: int) -> Iterator[Row]:
        wanted = [self.columns.image, self.columns.caption]
        # Piece by piece: a column of images may be larger than memory.
        with pq.ParquetFile(self.paths[number], pre_buffer=False, buffer_size=READ_BUFFER) as file:
            groups = list(range(group, file.num_row_groups))
            try:
                for batch in file.iter_batches(BATCH, row_groups=groups, columns=wanted):
                    yield from map(self.columns.row, batch.to_pylist())
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{self.paths[number]} cannot be read ({error})") from None

    def __getstate__(self):
        return {**self.__dict__, "_place": None, "_stream": iter(())}


def open_parquet(paths: list[Path], image: str | None, caption: str | None, base: str | os.PathLike) -> ParquetRows:
    """The rows of parquet files of one schema; image, caption: names of columns, by default the usual ones."""
    total, columns = 0, None
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                total += file.metadata.num_rows
                found = choose_columns(path, file.schema_arrow.names, base, image, caption)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{path} is no complete parquet file ({error})") from None
        columns = columns or found
        if found != columns:
            raise UserError(f"{path} has other columns than {paths[0]}; name those of all with --csv-img-key")
    assert columns is not None
    identity = {"kind": "parquet", "files": [file_identity(path) for path in paths], "columns": list(columns[:2])}
    return ParquetRows(paths, columns, identity, total)


def _runs(groups: list[int], size: int) -> Iterator[tuple[int, int]]:
    """(first group, rows) of runs of groups that together have at most `size` rows, or of one larger group."""
    first, total = 0, 0
    for group, rows in enumerate(groups):
        if total and total + rows > size:
            yield first, total
            first, total = group, 0
        total += rows
    if total:
        yield first, total
