"""The tables of a directory of shards, column by column."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mcl_clip.errors import UserError
from mcl_clip.shards.columns import map_table
from mcl_clip.shards.offsets import content_sha256

TARS_SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # relative to the directory when inside it; or a URL
        ("bytes", pa.int64()),
        ("rest_crc32", pa.uint32()),  # over all bytes that belong to no sample
        ("mtime_ns", pa.int64()),  # modification time when it was indexed; null: not known
    ]
)
SOURCES_SCHEMA = pa.schema([("name", pa.string())])
_SHARDS_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("label", pa.int32()),  # index in the label paths
        ("samples", pa.int32()),  # that are trained on
        ("failed", pa.int32()),  # last rows, without image or caption
        ("bytes", pa.int64()),  # of all samples, tar headers included
        ("rows_sha256", pa.string()),
    ]
)
_REPEATS = pa.field("repeats", pa.int32())
_APART = pa.field("apart", pa.int32())  # rows between those that are trained on and the failed ones


def shards_schema(repeated: bool, apart: bool) -> pa.Schema:
    """Of the table of shards: with `repeats` where any is not 1, with `apart` where samples are set apart."""
    schema = _SHARDS_SCHEMA.append(_REPEATS) if repeated else _SHARDS_SCHEMA
    return schema.append(_APART) if apart else schema


def open_table(directory: Path, name: str, schema: pa.Schema, sha256: str) -> pa.Table:
    """A table, memory-mapped; one of earlier versions is read. `UserError` for one that is damaged or another."""
    path, old = directory / f"{name}.arrow", directory / f"{name}.parquet"
    if not path.exists() and old.exists():
        return _checked(old, schema, sha256)
    _checked(path, schema, sha256)  # whose pages, all of which it has touched, are given back
    return map_table(path)


def table_hash(table: pa.Table) -> str:
    """SHA-256 of a table's content, wherever the tars lie: data that is moved or copied as a whole keeps it."""
    return content_sha256(table, [name for name in table.column_names if name not in ("path", "mtime_ns")])


def _checked(path: Path, schema: pa.Schema, sha256: str) -> pa.Table:
    try:
        table = map_table(path) if path.suffix == ".arrow" else pq.read_table(path, schema=schema)
        table.validate(full=True)
        if table.schema != schema:
            raise ValueError("unknown columns")
        if any(table[column].null_count for column in table.column_names if column != "mtime_ns"):
            raise ValueError("values are missing")
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({error}); make {path.parent} again") from None
    if table_hash(table) != sha256:
        raise UserError(f"{path} was changed after it was made; make {path.parent} again")
    return table
