"""Bucketing, first half: the labelled rows of each unit (a run of source shards), sorted by group."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mcl_clip.left_out import FIRST, Record, note
from mcl_clip.numbered import find_numbered
from mcl_clip.shards.labels import ShardLabels
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.offsets import ORIGIN_SCHEMA, column, map_rows, write_rows
from mcl_clip.shards.reader import ShardRows
from mcl_clip.world import appears

Group = tuple[str, int]
"""(label path, how often an epoch takes each of its samples); samples of one group share shards."""


def unit_path(work: Path, unit: int) -> Path:
    """File of the unit with this ordinal."""
    return find_numbered(work / "groups", unit, ".arrow")


@dataclass(frozen=True)
class WriteUnit:
    """Write the file of one unit; a finished one is left alone."""

    source: Manifest
    labels: ShardLabels
    units: list[tuple[int, int]]
    work: Path

    def __call__(self, unit: int) -> None:
        path = unit_path(self.work, unit)
        if path.exists():
            return
        tables, lost = [ORIGIN_SCHEMA.empty_table()], list[str]()
        groups: list[Group] = []
        for shard in range(*self.units[unit]):
            rows = self.source.open_shard(shard)
            label = _labels(rows, shard, self.source, self.labels)
            kept = {row: path for row, path in enumerate(label[: rows.num_samples]) if path is not None}
            tables.append(_with_origin(rows, shard).take(pa.array(kept, pa.int64())))
            groups += [(path, int(self.source.shard_repeats[shard])) for path in kept.values()]
            unlabelled = (row for row in range(len(rows.table)) if row not in kept and row not in rows.apart)
            lost += ["/".join(rows.source_of(row)) for row in unlabelled]
        present = sorted(set(groups), key=_order)
        index_of = {group: index for index, group in enumerate(present)}
        code = np.array([index_of[group] for group in groups], np.int64)
        table = pa.concat_tables(tables).take(np.argsort(code, kind="stable"))
        counts = np.bincount(code, minlength=len(present)).tolist()
        write_rows(path, table, {"groups": present, "counts": counts, "left_out": len(lost), "first": lost[:FIRST]})


def count_units(work: Path, units: int) -> tuple[list[Group], np.ndarray, Record]:
    """(groups in order, counts int32 [units, groups], what is left out) over all unit files."""
    facts = [map_rows(appears(unit_path(work, unit)))[1] for unit in range(units)]
    groups = sorted({(path, repeats) for fact in facts for path, repeats in fact["groups"]}, key=_order)
    index_of = {group: index for index, group in enumerate(groups)}
    counts = np.zeros((units, len(groups)), np.int32)
    for unit, fact in enumerate(facts):
        counts[unit, [index_of[path, repeats] for path, repeats in fact["groups"]]] = fact["counts"]
    left_out: Record = {}
    for fact in facts:
        if fact["left_out"]:
            note(left_out, "without a label", fact.get("first", ()), fact["left_out"])
    return groups, counts, left_out


def label_order(path: str) -> list[tuple[bool, int, str]]:
    """Sort key of label paths: numbers by value, component by component, `3/7` before `3/10`."""
    parts = path.split("/")
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _order(group: Group) -> tuple[list[tuple[bool, int, str]], int]:
    return label_order(group[0]), group[1]


def _labels(rows: ShardRows, shard: int, source: Manifest, labels: ShardLabels) -> Sequence[str | None]:
    if source.kind == "source":
        return labels.labels_for(rows.name, rows.keys)
    found: list[str | None] = [None] * len(rows.table)
    origin = column(rows.table, "source")
    keys = rows.table["source_key"].to_pylist()
    for ordinal in np.unique(origin).tolist():
        at = np.flatnonzero(origin == ordinal).tolist()
        part = labels.labels_for(source.source_names[ordinal], [keys[row] for row in at], partial=True)
        for row, label in zip(at, part, strict=True):
            found[row] = label
    return found


def _with_origin(rows: ShardRows, shard: int) -> pa.Table:
    table = rows.table.replace_schema_metadata(None)
    if table.schema == ORIGIN_SCHEMA:
        return table
    source = pa.array(np.full(len(table), shard, np.int32))
    return table.append_column("source", source).append_column("source_key", table["key"])
