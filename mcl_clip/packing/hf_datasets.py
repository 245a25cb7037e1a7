"""`datasets` of Hugging Face: folders that `save_to_disk` wrote, and names on the hub, streamed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from mcl_clip.errors import UserError
from mcl_clip.packing.rows import Columns, Row, Skip, Unit, choose_columns, cut
from mcl_clip.packing.urls import read_url

BATCH = 64


@dataclass(frozen=True)
class SavedRows:
    """The rows of a data set on disk, memory-mapped; make it with `open_saved`."""

    data: Any
    columns: Columns
    identity: dict[str, Any]
    total: int
    parallel: bool = True

    def units(self, size: int, work: Path) -> Iterator[Unit]:
        """See `Source`."""
        return cut(self.total, size)

    def rows(self, unit: Unit, work: Path) -> Iterator[Row]:
        """See `Source`."""
        first, last = unit.at[0], unit.at[0] + unit.rows
        names = [self.columns.image, self.columns.caption]
        for start in range(first, last, BATCH):
            part = self.data[start : min(start + BATCH, last)]
            for values in zip(*(part[name] for name in names), strict=True):
                yield self.columns.row(dict(zip(names, values, strict=True)))


@dataclass
class StreamedRows:
    """The rows of a data set as they come over the network, in one process; make it with `open_streamed`."""

    data: Any
    columns: Columns
    identity: dict[str, Any]
    total: int | None
    parallel: bool = False
    _taken: int = field(default=0, repr=False)
    _next: dict[str, Any] | None = field(default=None, repr=False)
    _stream: Iterator[dict[str, Any]] = field(default_factory=lambda: iter(()), repr=False)

    def units(self, size: int, work: Path) -> Iterator[Unit]:
        """See `Source`; each unit is read, or passed over, before the next, and the last may be shorter than said."""
        self._stream, self._taken = iter(self.data), 0
        for shard in count():
            self._next = self._take(shard * size)
            if self._next is None:
                return
            yield Unit(shard, size, (shard * size,))

    def rows(self, unit: Unit, work: Path) -> Iterator[Row]:
        """See `Source`."""
        rest = iter(lambda: self._take(self._taken), None)
        for record in islice(chain([self._next], rest), unit.rows):
            assert record is not None
            yield self._row(record)

    def _row(self, record: dict[str, Any]) -> Row:
        try:
            return self.columns.row(record | {self.columns.image: _fetched(record[self.columns.image])})
        except Skip as skip:
            return self.columns.row(record)._replace(image=None, fault=str(skip))

    def _take(self, row: int) -> dict[str, Any] | None:
        """The row with this number, None behind the last."""
        for record in self._stream:
            self._taken += 1
            if self._taken > row:
                return record
        return None


def open_saved(path: Path, split: str | None, image: str | None, caption: str | None) -> SavedRows:
    """What `save_to_disk` wrote; of several splits `split`, by default train. image, caption: names of columns."""
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # whatever a broken folder makes the library run into
        raise UserError(f"{path} cannot be read by datasets.load_from_disk ({_said(error)})") from None
    if isinstance(data, datasets.DatasetDict):
        split = split or "train"
        if split not in data:
            raise UserError(f"{path} has the splits {', '.join(data)}; choose one with --split")
        data = data[split]
    columns = choose_columns(path, data.column_names, path, image, caption)
    data = _undecoded(data.with_format(None).select_columns(list(columns[:2])), columns)
    identity = {"kind": "datasets", "path": str(path.resolve()), "split": split, "rows": len(data)}
    return SavedRows(data, columns, {**identity, "fingerprint": data._fingerprint}, len(data))


def open_streamed(
    name: str, subset: str | None, split: str | None, image: str | None, caption: str | None
) -> StreamedRows:
    """A data set of the hub by name; no code of it is run. subset, split: as `datasets.load_dataset` has them."""
    import datasets

    split = split or "train"
    try:
        data = datasets.load_dataset(name, subset, split=split, streaming=True)
        names = data.column_names or list(next(iter(data), {}))
    except Exception as error:  # the hub, the network, the files of the data set
        raise UserError(
            f"{name} is neither on disk nor a data set that can be streamed, split {split} ({_said(error)}); check the "
            "name, --split and --subset"
        ) from None
    return stream_rows(data, {"name": name, "subset": subset, "split": split}, names, image, caption)


def stream_rows(
    data: Any, identity: dict[str, Any], names: list[str], image: str | None, caption: str | None
) -> StreamedRows:
    """The rows of a `datasets.IterableDataset` with columns `names`."""
    source = str(identity["name"])
    columns = choose_columns(source, names, ".", image, caption)
    splits = data.info.splits or {}
    total = splits[identity["split"]].num_examples if identity["split"] in splits else None
    data = _undecoded(data.select_columns(list(columns[:2])), columns)
    return StreamedRows(data, columns, {"kind": "datasets", **identity}, total)


def _undecoded(data: Any, columns: Columns) -> Any:
    """Image files as they are."""
    import datasets

    features = data.features or {}
    if isinstance(features.get(columns.image), datasets.Image):
        return data.cast_column(columns.image, datasets.Image(decode=False))
    return data


def _fetched(cell: Any) -> Any:
    """A cell whose image lies behind a URL, with its bytes; `Skip` when they cannot be had."""
    if not isinstance(cell, dict) or cell.get("bytes") or "://" not in str(cell.get("path")):
        return cell
    return {**cell, "bytes": read_url(str(cell["path"]))}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
