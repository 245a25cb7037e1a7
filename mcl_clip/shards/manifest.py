"""A data set of shards: what stands in its directory, in numbers per shard.

Sources, buckets and index-only buckets differ only in here. In the directory:

manifest.json         written last: the commit; totals, label paths, hashes
shards.arrow          one row a shard: name, label, samples, failed, bytes, rows_sha256
tars.arrow            one row a tar: path, bytes, rest_crc32, mtime_ns
sources.arrow         name of every source shard; not for a source
offsets/00/000/00000012.arrow    see `offsets`

Earlier versions wrote the tables as parquet, and all offsets into one folder; both are read.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mcl_clip.artifacts import read_json, sha256_json, write_json
from mcl_clip.errors import UserError
from mcl_clip.left_out import Record, line
from mcl_clip.shards.apart import APART, Apart
from mcl_clip.shards.captions import NO_CAPTIONS
from mcl_clip.shards.columns import Strings, write_table
from mcl_clip.shards.offsets import find_offsets, read_offsets, rows_sha256
from mcl_clip.shards.reader import ShardRows, Tars
from mcl_clip.shards.remote import is_remote
from mcl_clip.shards.tables import SOURCES_SCHEMA, TARS_SCHEMA, open_table, shards_schema, table_hash

log = logging.getLogger(__name__)
FORMAT = {"format": "mcl_clip shards", "version": 1}
KINDS = ("source", "buckets", "index-only")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")  # what a killed run leaves of `atomic_path`
_FOLDERS = ("offsets/**/", "tars/**/")
_UNHASHED = ("hash", "made_from", "left_out")


class Manifest:
    """An index or a directory of buckets; open one with `Manifest.load`. Memory: O(shards), mapped when used.

    directory: Path. info: `manifest.json`. kind: "source" (shard i is tar i), "buckets" (shard i is tar i of
    the directory) or "index-only" (rows of a shard point into many source tars). hash: SHA-256 of the
    content, wherever it lies. label_paths: of all labels; a source has one, "". caption_key: None for `.txt`
    captions, the key in `.json`, or `NO_CAPTIONS`. made_from: hashes of what the data was made from. left_out: what of
    the source is not in it (see `mcl_clip.left_out`). apart: by what a source sets `num_apart` samples apart.
    """

    def __init__(self, directory: Path, info: dict[str, Any]):
        self.directory, self.info = directory, info
        self.kind: str = info["kind"]
        self.hash: str = info["hash"]
        self.num_shards: int = info["num_shards"]
        self.num_samples: int = info["num_samples"]
        self.num_failed: int = info["num_failed"]
        self.num_apart: int = info.get("num_apart", 0)
        self.apart = Apart(**info["apart"]) if "apart" in info else None
        self.label_paths: list[str] = info["label_paths"]
        self.caption_key: str | None = info["caption_key"]
        self.made_from: dict[str, Any] = info["made_from"]
        self.left_out: Record = info.get("left_out", {})  # indexes made before it was recorded have none

    @classmethod
    def load(cls, directory: str | os.PathLike) -> "Manifest":
        """Open a directory; `UserError` when it is unfinished, of another version, or was changed."""
        directory = Path(directory)
        path = directory / "manifest.json"
        if not path.exists():
            raise UserError(f"{directory} holds no finished index or buckets; run mcl-shards again to finish")
        info = read_json(path)
        if not isinstance(info, dict) or {name: info.get(name) for name in FORMAT} != FORMAT:
            raise UserError(f"{path} is not of {FORMAT}; make it again with this version of mcl-shards")
        if info.get("hash") != _hash_of(info) or info["kind"] not in KINDS:
            raise UserError(f"{path} was changed after it was made; make it again")
        return cls(directory, info)

    @property
    def has_captions(self) -> bool:
        """Whether every sample has a caption; else the data was indexed for its images alone."""
        return self.caption_key != NO_CAPTIONS

    def __reduce__(self):
        return Manifest, (self.directory, self.info)  # a copy maps its own tables

    @cached_property
    def shard_names(self) -> Sequence[str]:
        """Names by shard; for a source these are what labels refer to."""
        return Strings(self.shards["name"])

    @cached_property
    def shard_size(self) -> np.ndarray:
        """int32 [shards]: samples that are trained on, rows [0, size) of each shard."""
        return self.shards["samples"].to_numpy()

    @cached_property
    def shard_label(self) -> np.ndarray:
        """int32 [shards]: index in `label_paths`."""
        return self.shards["label"].to_numpy()

    @cached_property
    def shard_repeats(self) -> np.ndarray:
        """int32 [shards]: how often an epoch takes each sample of a shard."""
        repeated = self.info.get("repeated")
        return self.shards["repeats"].to_numpy() if repeated else np.ones(self.num_shards, np.int32)

    @cached_property
    def shard_apart(self) -> np.ndarray:
        """int32 [shards]: samples that are set apart, never trained on."""
        return self.shards["apart"].to_numpy() if self.apart else np.zeros(self.num_shards, np.int32)

    def rows_apart(self, shard: int) -> range:
        """Rows of a shard that are set apart: between those that are trained on and the failed ones."""
        start = int(self.shard_size[shard])
        return range(start, start + int(self.shard_apart[shard]))

    @cached_property
    def source_names(self) -> Sequence[str]:
        """Names of the source shards by source ordinal."""
        if self.kind == "source":
            return self.shard_names
        return Strings(self._table("sources", SOURCES_SCHEMA)["name"])

    @cached_property
    def tars(self) -> Tars:
        """The tars that the rows point into; made once in a process."""
        paths = Strings(self.tar_table["path"], partial(_located, str(self.directory)))
        return Tars(paths, self.tar_table["bytes"].to_numpy(), ranged=self.kind == "index-only")

    def open_shard(self, shard: int) -> ShardRows:
        """Rows of a shard by ordinal; `UserError` when its offsets are missing or of something else."""
        path = find_offsets(self.directory, shard)
        table, _ = read_offsets(path)
        if rows_sha256(table) != self.shards["rows_sha256"][shard].as_py():
            raise UserError(f"{path} is not the one of the manifest; run mcl-shards verify {self.directory}")
        names = None if self.kind == "source" else self.source_names
        return ShardRows(self.shard_names[shard], table, self.rows_apart(shard), self.tars, self.caption_key, names)

    def read_tables(self) -> None:
        """Map every table now, for processes forked from this one too; `UserError` for one that is damaged."""
        _ = self.shards, self.tars, self.source_names

    @cached_property
    def shards(self) -> pa.Table:
        """One row a shard; see `shards_schema`."""
        return self._table("shards", shards_schema(bool(self.info.get("repeated")), bool(self.apart)))

    @cached_property
    def tar_table(self) -> pa.Table:
        """One row a tar, `TARS_SCHEMA`."""
        return self._table("tars", TARS_SCHEMA)

    def relocate(self, paths: Sequence[str]) -> None:
        """Record that the same tars lie elsewhere now. The hash, which leaves paths out, stays; load anew to read."""
        table = self.tar_table.set_column(0, TARS_SCHEMA.field("path"), pa.array(paths, pa.string()))
        write_table(self.directory / "tars.arrow", table)

    def _table(self, name: str, schema: pa.Schema) -> pa.Table:
        return open_table(self.directory, name, schema, self.info[f"{name}_sha256"])


def tell_left_out(manifest: Manifest) -> None:
    """Log in one line what is left out of a data set: a warning, if anything is that was not asked for."""
    kept = f"{manifest.num_samples:,}"
    if manifest.left_out:
        tell = log.warning if manifest.left_out.keys() - {APART} else log.info
        tell("%s: %s samples; left out: %s", manifest.directory, kept, line(manifest.left_out))
    else:
        log.info("%s: %s samples; nothing is left out", manifest.directory, kept)


def write_manifest(
    directory: str | os.PathLike,
    kind: str,
    *,
    shards: dict[str, Any],
    tars: dict[str, Any],
    label_paths: Sequence[str] = ("",),
    source_names: Sequence[str] | None = None,
    caption_key: str | None = None,
    made_from: dict[str, Any] | None = None,
    apart: Apart | None = None,
    left_out: Record | None = None,
) -> Manifest:
    """Commit a directory whose offsets (and tars) are complete: tables first, manifest.json last.

    shards, tars: columns of the tables; without `repeats` every sample once. apart: see `Manifest`; its counts are a
    column of `shards`. source_names: of every kind but "source".
    """
    directory = Path(directory)
    for leftover in chain.from_iterable(directory.glob(f"{folder}.*.tmp") for folder in ("", *_FOLDERS)):
        if _TEMPORARY.fullmatch(leftover.name):
            leftover.unlink()
    tars = {"mtime_ns": pa.nulls(len(tars["path"]), pa.int64()), **tars}
    repeated = max(shards.get("repeats", ()), default=1) > 1
    schema = shards_schema(repeated, apart is not None)
    columns = {name: shards[name] for name in schema.names}
    tables = {"shards": pa.table(columns, schema), "tars": pa.table(tars, TARS_SCHEMA)}
    if source_names is not None:
        tables["sources"] = pa.table({"name": source_names}, SOURCES_SCHEMA)
    for name, table in tables.items():
        write_table(directory / f"{name}.arrow", table)
    info: dict[str, Any] = {
        **FORMAT,
        "kind": kind,
        "num_shards": len(tables["shards"]),
        "num_tars": len(tables["tars"]),
        "num_samples": _total(tables["shards"], "samples"),
        "num_failed": _total(tables["shards"], "failed"),
        "num_bytes": _total(tables["shards"], "bytes"),
        "caption_key": caption_key,
        **({"repeated": True} if repeated else {}),
        **({"apart": asdict(apart), "num_apart": _total(tables["shards"], "apart")} if apart else {}),
        "label_paths": list(label_paths),
        **{f"{name}_sha256": table_hash(table) for name, table in tables.items()},
        "made_from": made_from or {},
        "left_out": left_out or {},
    }
    write_json(directory / "manifest.json", {**info, "hash": _hash_of(info)})
    return Manifest.load(directory)


def _located(directory: str, path: str) -> str:
    return path if is_remote(path) else os.path.join(directory, path)


def _total(table: pa.Table, name: str) -> int:
    return int(table[name].to_numpy().sum(dtype=np.int64))


def _hash_of(info: dict[str, Any]) -> str:
    return sha256_json({name: value for name, value in info.items() if name not in _UNHASHED})
