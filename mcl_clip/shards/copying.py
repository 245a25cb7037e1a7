"""Bucketing, second half: one bucket shard, as a tar of its samples or as rows that point at them."""

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from mcl_clip.artifacts import atomic_path
from mcl_clip.errors import UserError
from mcl_clip.numbered import numbered
from mcl_clip.shards.assign import Assignment
from mcl_clip.shards.grouping import members_of
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.offsets import ORIGIN_SCHEMA, column, find_offsets, map_rows, rows_sha256, write_rows
from mcl_clip.shards.pictures import Picture, Pictures, crc32_of, resized
from mcl_clip.shards.reader import Tars
from mcl_clip.shards.resize import Resize
from mcl_clip.shards.tar import BLOCK, END_OF_ARCHIVE, TarError, header
from mcl_clip.shards.units import unit_path

WRITE_BUFFER = 1 << 20
FLUSH = 8 << 20
_ZEROS = bytes(BLOCK)


def tar_path(directory: Path, shard: int) -> Path:
    """A bucket's tar, or where it is written."""
    path, flat = numbered(directory / "tars", shard, ".tar"), directory / f"{shard:08d}.tar"
    return flat if not path.exists() and flat.exists() else path


def member_key(source: int, key: str) -> str:
    """Key of a source sample in its bucket: source-shard ordinal and source key, without dots and slashes."""
    escaped = key.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")
    return f"{source:06d}_{escaped}"


@dataclass(frozen=True)
class WriteShard:
    """Write one bucket shard and return its facts; a finished one is only looked at.

    The offsets file, written after the tar, is the commit of the shard.
    """

    source: Manifest
    assignment: Assignment
    work: Path
    directory: Path
    index_only: bool
    resize: Resize | None = None

    def __call__(self, shard: int) -> dict[str, Any]:
        target = find_offsets(self.directory, shard)
        tar = tar_path(self.directory, shard)
        if target.exists():
            table, facts = map_rows(target)
            if self.index_only or (tar.exists() and tar.stat().st_size == facts["tar_bytes"]):
                return _facts(table, facts)
        table, facts, pictures = self._rows(shard), {}, Pictures()
        if not self.index_only:
            with atomic_path(tar) as temporary, open(temporary, "wb", WRITE_BUFFER) as file:
                table = self._copy(table, shard, file, pictures)
                file.write(END_OF_ARCHIVE)
                facts = {"tar_bytes": file.tell(), "rest_crc32": zlib.crc32(END_OF_ARCHIVE)}
            facts |= {"pictures": pictures} if self.resize else {}
        write_rows(target, table, facts)
        return _facts(table, facts)

    @cached_property
    def _tars(self) -> Tars:
        """Those of the source; a bucket takes a few samples of each, so that remote ones are not fetched whole."""
        return Tars(self.source.tars.paths, self.source.tars.sizes, ranged=True, else_whole=True)

    def _rows(self, shard: int) -> pa.Table:
        parts = [
            _map_unit(unit_path(self.work, unit)).slice(start, stop - start)
            for unit, start, stop in self.assignment.pieces(shard)
        ]
        return pa.concat_tables(parts).combine_chunks().replace_schema_metadata(None)

    def _copy(self, rows: pa.Table, shard: int, file: BinaryIO, pictures: Pictures) -> pa.Table:
        """Write the samples of `rows`, payloads but for pictures as they are; returns the rows of the new tar."""
        origins = zip(rows["source"].to_pylist(), rows["source_key"].to_pylist(), strict=True)
        keys = [member_key(source, key) for source, key in origins]
        old_keys = rows["key"].to_pylist()
        tars, starts, sizes = (column(rows, name).tolist() for name in ("tar", "sample_offset", "sample_size"))
        old = {name: column(rows, f"{name}_offset").tolist() for name in ("image", "caption")}
        caption_sizes, image_sizes = (column(rows, f"{name}_size").tolist() for name in ("caption", "image"))
        payloads = column(rows, "payload_crc32").tolist()
        new: dict[str, list[int]] = {name: [] for name in ("image", "caption", "captions", "sample", "size", "frame")}
        at = flushed = 0
        ranges = list(zip(tars, starts, sizes, strict=True))
        for row, sample in enumerate(self._tars.in_turn(ranges)):
            tar, start, _ = ranges[row]
            try:
                changed: dict[int, bytes] = {}
                if self.resize:
                    picture = Picture(sample, old_keys[row], old["image"][row] - start, image_sizes[row])
                    changed = resized(picture, payloads[row], self.resize, pictures)
                chunks, moved, frame = rewrite(sample, old_keys[row], keys[row], changed)
                for data in changed.values():
                    image_sizes[row], payloads[row] = len(data), crc32_of(chunks[1::3])
                for name, offsets in old.items():
                    # A sample of data that needs no captions has none, at 0.
                    new[name].append(at + moved[offsets[row] - start] if offsets[row] else 0)
                end = old["caption"][row] - start + caption_sizes[row]
                new["captions"].append(at + moved[end] - new["caption"][-1] if caption_sizes[row] else 0)
            except (TarError, KeyError):
                raise UserError(
                    f"{self.source.tars.paths[tar]} changed after it was indexed, at sample "
                    f"{old_keys[row]!r}; run mcl-shards verify {self.source.directory}"
                ) from None
            file.writelines(chunks)
            if at >= flushed + FLUSH and hasattr(os, "posix_fadvise"):
                # Starts the writing to disk now, so that the final sync has little left to wait for.
                os.posix_fadvise(file.fileno(), flushed, at - flushed, os.POSIX_FADV_DONTNEED)
                flushed = at
            new["sample"].append(at)
            at += sum(map(len, chunks))
            new["size"].append(at - new["sample"][-1])
            new["frame"].append(frame)
        columns = {name: rows[name] for name in rows.column_names} | {
            "key": keys,
            "tar": np.full(len(rows), shard, np.int32),
            "image_offset": new["image"],
            "image_size": image_sizes,
            "caption_offset": new["caption"],
            "caption_size": new["captions"],
            "sample_offset": new["sample"],
            "sample_size": new["size"],
            "payload_crc32": payloads,
            "frame_crc32": new["frame"],
        }
        return pa.table(columns, ORIGIN_SCHEMA)


def rewrite(
    sample: bytes, old_key: str, key: str, changed: Mapping[int, bytes]
) -> tuple[list[bytes | memoryview], dict[int, int], int]:
    """The members of one sample under another key: (chunks, {old place: new one}, frame CRC-32).

    Places are where members, and their payloads, start and end; `changed` has other payloads by the place of the old.
    Of each member there are three chunks: header, payload, padding.
    """
    view = memoryview(sample)
    chunks: list[bytes | memoryview] = []
    moved, at, frame = {}, 0, 0
    for member in members_of(view, 0, len(view), old_key):
        extension = member.name[len(old_key) + 1 :].lower()
        payload = changed.get(member.data, view[member.data : member.data + member.size])
        head, padding = header(f"{key}.{extension}", len(payload)), _ZEROS[: -len(payload) % BLOCK]
        frame = zlib.crc32(padding, zlib.crc32(head, frame))
        moved[member.start], moved[member.data] = at, at + len(head)
        chunks += (head, payload, padding)
        at += len(head) + len(payload)
        moved[member.data + member.size] = at
        at += len(padding)
        moved[member.stop] = at
    return chunks, moved, frame


@lru_cache(maxsize=64)
def _map_unit(path: Path) -> pa.Table:
    return map_rows(path)[0]


def _facts(table: pa.Table, facts: dict[str, Any]) -> dict[str, Any]:
    size = int(column(table, "sample_size").sum())
    return {"samples": len(table), "bytes": size, "rows_sha256": rows_sha256(table), **facts}
