"""One shard: a tar, a parquet file of all its rows, the skipped ones too, and statistics; as img2dataset has them."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas  # noqa: F401  or pyarrow imports it later, in every worker
import pyarrow as pa
import pyarrow.parquet as pq

from mcl_clip.artifacts import atomic_path, read_json, write_json
from mcl_clip.packing.images import Picture, read_picture
from mcl_clip.packing.rows import Row, Skip, Source, Unit
from mcl_clip.shards.tar import BLOCK, END_OF_ARCHIVE, header

SCHEMA = pa.schema(
    [
        ("url", pa.string()),  # how the source calls the image
        ("caption", pa.string()),  # the first one
        ("captions", pa.list_(pa.string())),  # null where the source has no list
        ("key", pa.string()),
        ("status", pa.string()),  # success, failed_to_download or failed_to_resize
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
    ]
)
SUCCESS, UNREADABLE, NO_IMAGE = "success", "failed_to_download", "failed_to_resize"
WRITE_BUFFER, FLUSH = 1 << 20, 8 << 20
_ZEROS = bytes(BLOCK)


def shard_name(shard: int) -> str:
    """Stem of the three files of a shard."""
    return f"{shard:05d}"


def sample_key(shard: int, place: int, size: int) -> str:
    """Key of a row, as img2dataset numbers them: shard, then the place among `size` rows."""
    return f"{shard:05d}{place:0{len(str(max(size - 1, 1)))}d}"


@dataclass(frozen=True)
class PackShard:
    """Write the files of a unit and return its statistics; a finished one is only looked at.

    The statistics, written last, are the commit of the shard. Every file is a function of the rows alone: its
    times are 0.
    """

    source: Source
    directory: Path
    work: Path
    size: int
    hash_name: str | None = None  # of the image bytes, for a column of this name

    def __call__(self, unit: Unit) -> dict[str, Any]:
        stem = self.directory / shard_name(unit.shard)
        stats = stem.with_name(f"{stem.name}_stats.json")
        if stats.exists():
            return read_json(stats)
        records: list[dict[str, Any]] = []
        with atomic_path(stem.with_name(f"{stem.name}.tar")) as temporary, open(temporary, "wb", WRITE_BUFFER) as file:
            flushed = 0
            for chunks in self._samples(unit, records):
                file.writelines(chunks)
                if file.tell() >= flushed + FLUSH and hasattr(os, "posix_fadvise"):
                    # Starts the writing to disk now, so that the final sync has little left to wait for.
                    os.posix_fadvise(file.fileno(), flushed, file.tell() - flushed, os.POSIX_FADV_DONTNEED)
                    flushed = file.tell()
            file.write(END_OF_ARCHIVE)
        with atomic_path(stem.with_name(f"{stem.name}.parquet")) as temporary:
            pq.write_table(pa.Table.from_pylist(records, self._schema), temporary)
        statuses = Counter(record["status"] for record in records)
        reasons = Counter(record["error_message"] or SUCCESS for record in records)
        facts = {
            "count": len(records),
            "successes": statuses[SUCCESS],
            UNREADABLE: statuses[UNREADABLE],
            NO_IMAGE: statuses[NO_IMAGE],
            "duration": 0.0,
            "start_time": 0.0,
            "end_time": 0.0,
            "status_dict": dict(sorted(reasons.items())),
        }
        write_json(stats, facts)
        return facts

    @property
    def _schema(self) -> pa.Schema:
        return SCHEMA.append(pa.field(self.hash_name, pa.string())) if self.hash_name else SCHEMA

    def _samples(self, unit: Unit, records: list[dict[str, Any]]) -> Iterator[list[bytes]]:
        """The tar, sample by sample; a record of every row is appended to `records`."""
        for place, row in enumerate(self.source.rows(unit, self.work)):
            key = sample_key(unit.shard, place, self.size)
            record: dict[str, Any] = {
                "url": row.name and row.name.encode("utf-8", "replace").decode(),
                "caption": row.captions[0] if row.captions else None,
                "captions": row.captions if row.listed else None,
                "key": key,
            }
            try:
                picture = _picture(row)
            except Skip as skip:
                read = isinstance(row.image, bytes) or str(skip).startswith(("not an image", "the image"))
                record |= {"status": NO_IMAGE if read else UNREADABLE, "error_message": str(skip)}
                records.append(record)
                continue
            record |= {"status": SUCCESS, "error_message": None, "width": picture.width, "height": picture.height}
            record |= {"original_width": picture.width, "original_height": picture.height}
            if self.hash_name:
                record[self.hash_name] = hashlib.new(self.hash_name, picture.data).hexdigest()
            records.append(record)
            described = {name: value for name, value in record.items() if value is not None or name != "captions"}
            members = (
                (picture.extension, picture.data),
                ("json", json.dumps(described).encode()),
                ("txt", row.captions[0].encode()),
            )
            yield [part for extension, data in members for part in _member(f"{key}.{extension}", data)]


def _picture(row: Row) -> Picture:
    if row.fault:
        raise Skip(row.fault)
    if not row.captions:
        raise Skip("no caption")
    return read_picture(row.image)


def _member(name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    return header(name, len(data)), data, _ZEROS[: -len(data) % BLOCK]
