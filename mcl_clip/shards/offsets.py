"""The offsets of one shard: an uncompressed Arrow IPC file, one row a sample, memory-mapped to be read."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mcl_clip.errors import UserError
from mcl_clip.numbered import find_numbered, numbered
from mcl_clip.shards.columns import map_table, write_table

IMAGE_EXTENSIONS = ("jpg", "png", "jpeg", "webp")  # of several images the first, as open_clip chooses

SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # WebDataset key inside the tar
        ("tar", pa.int32()),  # which of the manifest's tars
        ("image_offset", pa.int64()),
        ("image_size", pa.int64()),  # bytes; 0: no image
        ("image_extension", pa.int8()),  # index in IMAGE_EXTENSIONS; -1: no image
        ("caption_offset", pa.int64()),
        ("caption_size", pa.int64()),  # bytes; 0: no caption
        ("sample_offset", pa.int64()),  # first header of the first member ...
        ("sample_size", pa.int64()),  # ... to the padded end of the last one
        ("payload_crc32", pa.uint32()),  # over the members' payloads, in order
        ("frame_crc32", pa.uint32()),  # over the sample's other bytes: headers and padding
    ]
)
# Buckets and index-only shards also say where each sample came from.
ORIGIN_SCHEMA = SCHEMA.append(pa.field("source", pa.int32())).append(pa.field("source_key", pa.string()))


def offsets_path(directory: str | os.PathLike, shard: int) -> Path:
    """Where the offsets file of the shard with this ordinal is written."""
    return numbered(Path(directory) / "offsets", shard, ".arrow")


def find_offsets(directory: str | os.PathLike, shard: int) -> Path:
    """Where it lies, in directories of earlier versions too."""
    return find_numbered(Path(directory) / "offsets", shard, ".arrow")


def failed_rows(table: pa.Table, needs_captions: bool = True) -> np.ndarray:
    """bool [rows]: samples that lack an image, or a caption where it is needed."""
    failed = column(table, "image_size") == 0
    return failed | (column(table, "caption_size") == 0) if needs_captions else failed


def column(table: pa.Table, name: str) -> np.ndarray:
    """A numeric column as a numpy array, without a copy where the table has one chunk."""
    return table[name].to_numpy()


def write_rows(path: str | os.PathLike, table: pa.Table, facts: dict[str, Any]) -> None:
    """Write rows, and JSON-like `facts` about them in the schema's metadata, atomically."""
    # Rebuilt from values: equal rows give equal bytes, however they were sliced together.
    fresh = [
        pa.array(values.to_pylist() if pa.types.is_string(values.type) else values.to_numpy(), values.type)
        for values in table.columns
    ]
    write_table(path, pa.table(fresh, table.schema.with_metadata({"facts": json.dumps(facts)})))


def map_rows(path: str | os.PathLike) -> tuple[pa.Table, dict[str, Any]]:
    """(rows, facts) of a file that this program has just written, memory-mapped, unchecked."""
    table = map_table(path)
    return table, json.loads((table.schema.metadata or {}).get(b"facts", b"{}"))


def read_offsets(path: str | os.PathLike) -> tuple[pa.Table, dict[str, Any]]:
    """(rows, facts) of an offsets file, memory-mapped; `UserError` when it is missing or broken."""
    try:
        table, facts = map_rows(path)
        table.validate(full=True)
        if table.schema.remove_metadata() not in (SCHEMA, ORIGIN_SCHEMA):
            raise pa.ArrowInvalid("unknown columns")
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise UserError(f"offsets {path} cannot be read ({error}); make the index again") from None
    return table, facts


def content_sha256(table: pa.Table, names: Iterable[str]) -> str:
    """SHA-256 of the values of some columns: the same whatever library version wrote the file."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode())
        values = table[name].combine_chunks()
        if pa.types.is_string(values.type):
            _, offsets, data = values.buffers()
            bounds = np.frombuffer(offsets or bytes(4), np.int32)[values.offset :][: len(values) + 1]
            digest.update(np.diff(bounds).data)
            digest.update(memoryview(data or b"")[bounds[0] : bounds[-1]])
        else:
            digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).data)
    return digest.hexdigest()


def rows_sha256(table: pa.Table) -> str:
    """SHA-256 of all rows of a shard."""
    return content_sha256(table, table.column_names)
