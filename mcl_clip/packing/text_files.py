"""CSV, TSV and JSON lines: text of which a run of rows is found by its first byte."""

import codecs
import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

from mcl_clip.errors import UserError
from mcl_clip.packing.rows import Columns, Row, Unit, choose_columns, file_identity
from mcl_clip.shards.grouping import is_utf8

MAX_LINE = 1 << 26  # bytes; an image in base64 fits


class _Lines:
    """Lines of text from a byte offset on; `offset` is where the next one starts. Bytes that are not UTF-8 are kept
    as surrogates, for `is_utf8` to see.
    """

    def __init__(self, file: BinaryIO, offset: int):
        file.seek(offset)
        self.file, self.offset = file, offset

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(MAX_LINE):
            text = line.decode("utf-8-sig" if self.offset == 0 else "utf-8", "surrogateescape")
            self.offset += len(line)
            yield text


@dataclass(frozen=True)
class DelimitedRows:
    """A CSV or TSV with a header, quoted as spreadsheets do; make it with `open_delimited`."""

    path: Path
    separator: str
    names: list[str]
    columns: Columns
    identity: dict[str, Any]
    total: int | None = None
    parallel: bool = True

    def units(self, size: int, work: Path) -> Iterator[Unit]:
        """See `Source`; the file is read once."""
        with open(self.path, "rb") as file:
            lines = _Lines(file, 0)
            rows = self._parse(lines)
            next(rows, None)
            yield from _cut(rows, lines, size)

    def rows(self, unit: Unit, work: Path) -> Iterator[Row]:
        """See `Source`."""
        with open(self.path, "rb") as file:
            for values in islice(self._parse(_Lines(file, unit.at[0])), unit.rows):
                if len(values) < len(self.names):
                    yield Row(None, [], fault="the row has fewer columns than the header")
                elif not is_utf8("".join(values)):
                    yield Row(None, [], fault="the row is not UTF-8: save the file as UTF-8")
                else:
                    yield self.columns.row(dict(zip(self.names, values, strict=False)))

    def _parse(self, lines: _Lines) -> Iterator[list[str]]:
        csv.field_size_limit(MAX_LINE)
        reader, start, last = csv.reader(lines, delimiter=self.separator), lines.offset, lines.offset
        try:
            for values in reader:
                last, start = start, lines.offset
                if values:
                    yield values
            # The rest of the file, in one cell, is what a quote gives that is never closed.
            lines.file.seek(last)
            rest = lines.file.read().decode("utf-8", "replace").splitlines(keepends=True)
            list(csv.reader(rest, delimiter=self.separator, strict=True))
        except csv.Error as error:
            if "expected after" not in str(error):
                raise UserError(f"{self.path}, at byte {last}: {error}; is a quote never closed?") from None


def open_delimited(
    path: Path, image: str | None, caption: str | None, separator: str, base: str | os.PathLike
) -> DelimitedRows:
    """The rows of a CSV; image, caption: names of its columns.

    Raises `UserError` that lists the columns and, where another separator would find them, names that.
    """
    separator = {"\\t": "\t", "tab": "\t"}.get(separator, separator)
    if len(separator) != 1 or separator in '"\r\n':
        raise UserError(f"--csv-separator {separator!r}: give one character, neither a quote nor a line's end")
    identity = {"kind": "csv", "file": file_identity(path), "separator": separator, "columns": [image, caption]}
    with open(path, "rb") as file:
        header = next(iter(_Lines(file, 0)), "")
    names = _fields(path, header, separator)
    if image not in names or caption not in names:
        for other in ",\t;|":
            found = _fields(path, header, other)
            if image in found and caption in found:
                raise UserError(f"{path} separates its columns by {other!r}: add --csv-separator {_shell(other)}")
    columns = choose_columns(path, names, base, image, caption)
    return DelimitedRows(path, separator, names, columns, identity)


def _fields(path: Path, line: str, separator: str) -> list[str]:
    if line.encode("utf-8", "surrogateescape")[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UserError(f"{path} is UTF-16: save it as UTF-8")
    csv.field_size_limit(MAX_LINE)
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error as error:
        raise UserError(
            f"{path} has no header that can be read ({error}): save it as UTF-8, with the names of its columns in the "
            "first line and lines that end in LF"
        ) from None


@dataclass(frozen=True)
class JsonLines:
    """JSON lines: one object a line; make it with `open_json_lines`."""

    path: Path
    columns: Columns
    identity: dict[str, Any]
    total: int | None = None
    parallel: bool = True

    def units(self, size: int, work: Path) -> Iterator[Unit]:
        """See `Source`; the file is read once."""
        return line_units(self.path, size)

    def rows(self, unit: Unit, work: Path) -> Iterator[Row]:
        """See `Source`."""
        for record in json_records(self.path, unit):
            if isinstance(record, dict):
                yield self.columns.row(record)
            else:
                yield Row(None, [], fault="the line is not a JSON object, in UTF-8")


def open_json_lines(path: Path, image: str | None, caption: str | None, base: str | os.PathLike) -> JsonLines:
    """The rows of a file of JSON lines; image, caption: names of its fields, by default the usual ones."""
    first = next(json_records(path, Unit(0, 1, (0,))), None)
    if not isinstance(first, dict):
        raise UserError(f"{path}: its first line is not a JSON object; JSON lines have one on every line")
    identity = {"kind": "json lines", "file": file_identity(path), "columns": [image, caption]}
    return JsonLines(path, choose_columns(path, first, base, image, caption), identity)


def json_records(path: Path, unit: Unit) -> Iterator[Any]:
    """The values of a unit's lines; None for a line that is not JSON."""
    with open(path, "rb") as file:
        for line in islice(filter(str.strip, _Lines(file, unit.at[0])), unit.rows):
            try:
                yield json.loads(line) if is_utf8(line) else None
            except (ValueError, RecursionError):
                yield None


def line_units(path: Path, size: int) -> Iterator[Unit]:
    """Units of a file of lines."""
    with open(path, "rb") as file:
        lines = _Lines(file, 0)
        yield from _cut(filter(str.strip, lines), lines, size)


def _cut(rows: Iterator[Any], lines: _Lines, size: int) -> Iterator[Unit]:
    """Units of rows that are pulled out of `lines`."""
    for shard in count():
        start = lines.offset
        found = sum(1 for _ in islice(rows, size))
        if not found:
            return
        yield Unit(shard, found, (start,))


def _shell(separator: str) -> str:
    return "$'\\t'" if separator == "\t" else f"'{separator}'"
