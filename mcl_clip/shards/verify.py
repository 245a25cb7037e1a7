"""Check a directory of shards against its index and manifest, byte by byte."""

import mmap
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from mcl_clip.errors import UserError
from mcl_clip.shards.grouping import members_of
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.offsets import column, find_offsets, read_offsets, rows_sha256
from mcl_clip.shards.pool import run
from mcl_clip.shards.remote import is_remote, open_tar
from mcl_clip.shards.scan import checksums
from mcl_clip.shards.tar import BLOCK, TarError


def verify(directory: str | os.PathLike, *, workers: int = 1, progress: bool = False) -> list[str]:
    """Everything that is wrong, one line each, naming file, sample and 512-byte blocks.

    Checks the manifest's own hash, every row of every offsets file, the size of every tar, and the checksum
    of every byte of it: payloads, headers and padding sample by sample, and the rest. For index-only buckets
    the samples they point to are checked. Raises `UserError` when there is no manifest to check against.
    """
    manifest = Manifest.load(directory)
    try:
        manifest.read_tables()
    except UserError as error:
        return [str(error)]
    tars = manifest.tars
    problems = [
        f"tar {path}: {problem}"
        for path, size in zip(tars.paths, tars.sizes, strict=True)
        if manifest.kind == "index-only" and (problem := _size_problem(path, size))
    ]
    done = run(_VerifyShard(manifest), range(manifest.num_shards), workers)
    found = dict(tqdm(done, "verify", manifest.num_shards, unit="shard", disable=not progress))
    for shard in range(manifest.num_shards):
        problems += [f"shard {manifest.shard_names[shard]}: {problem}" for problem in found[shard]]
    return problems


@dataclass(frozen=True)
class _VerifyShard:
    manifest: Manifest

    def __call__(self, shard: int) -> list[str]:
        path = find_offsets(self.manifest.directory, shard)
        try:
            table, _ = read_offsets(path)
        except UserError as error:
            return [str(error)]
        if rows_sha256(table) != self.manifest.shards["rows_sha256"][shard].as_py():
            return [f"{path} was changed after it was made"]
        own = self.manifest.kind != "index-only"
        problems: list[str] = []
        for tar in [shard] if own else np.unique(column(table, "tar")).tolist():
            rows = table.filter(column(table, "tar") == tar)
            problems += self._tar_problems(tar, rows, own)
        return problems

    def _tar_problems(self, tar: int, rows: pa.Table, own: bool) -> Iterator[str]:
        path, size = self.manifest.tars.paths[tar], int(self.manifest.tars.sizes[tar])
        rest = self.manifest.tar_table["rest_crc32"][tar].as_py()
        if own and not len(rows) and not rest:
            return  # a broken tar that the index left out
        if own and (problem := _size_problem(path, size)):
            yield problem
        try:
            with (
                open_tar(path, size) as file,
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
                memoryview(mapped) as buffer,
            ):
                yield from _sample_problems(buffer, rows)
                if own and len(buffer) == size and _rest_crc32(buffer, rows) != rest:
                    yield f"changed outside the samples: {_ranges(_gaps(rows, size))}"
        except (OSError, ValueError) as error:
            yield f"{path} cannot be read ({error})"


def _size_problem(path: str, size: int) -> str | None:
    if is_remote(path):
        return None  # checked when it is fetched
    if not os.path.exists(path):
        return f"{path} is missing"
    now = os.stat(path).st_size
    if now != size:
        cut = f", truncated in block {now // BLOCK}" if now < size else ""
        return f"{path} has {now} bytes, not {size}{cut}"
    return None


def _sample_problems(buffer: memoryview, rows: pa.Table) -> Iterator[str]:
    names = ("key", "sample_offset", "sample_size", "payload_crc32", "frame_crc32")
    for key, start, size, payload, frame in zip(*(rows[name].to_pylist() for name in names), strict=True):
        where = f"sample {key!r}, {_ranges([(start, start + size)])}"
        if start + size > len(buffer):
            yield f"{where}: truncated"
            continue
        try:
            members = members_of(buffer, start, start + size, key)
        except TarError as error:
            yield f"{where}: {error}"
            continue
        if not members:
            yield f"{where}: other members than indexed"
            continue
        now = checksums(buffer, members)
        if now[0] != payload:
            yield f"{where}: payload changed"
        if now[1] != frame:
            yield f"{where}: tar header or padding changed"


def _gaps(rows: pa.Table, size: int) -> list[tuple[int, int]]:
    """Byte ranges of a tar of `size` bytes that belong to no sample."""
    starts = np.sort(column(rows, "sample_offset"))
    stops = np.sort(column(rows, "sample_offset") + column(rows, "sample_size"))
    edges = zip([0, *stops.tolist()], [*starts.tolist(), size], strict=True)
    return [(start, stop) for start, stop in edges if start < stop]


def _rest_crc32(buffer: Any, rows: pa.Table) -> int:
    value = 0
    for start, stop in _gaps(rows, len(buffer)):
        value = zlib.crc32(buffer[start:stop], value)
    return value


def _ranges(ranges: list[tuple[int, int]]) -> str:
    return "blocks " + ", ".join(f"{start // BLOCK}-{(stop - 1) // BLOCK}" for start, stop in ranges)
