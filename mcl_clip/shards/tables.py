"""The tables of a directory of shards, column by column."""

import pyarrow as pa

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
