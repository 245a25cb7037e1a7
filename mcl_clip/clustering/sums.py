"""Sums over runs of label files, each a piece of work of its own; the data fixes the runs, and so all bytes."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from mcl_clip import seeds
from mcl_clip.artifacts import atomic_path
from mcl_clip.clustering.clusters import Clusters, unreadable
from mcl_clip.clustering.information import contingency
from mcl_clip.plan.permutation import mix
from mcl_clip.shards.offsets import content_sha256

BINS = 1024  # of the distance, from 0 to 2: quantiles are exact to 2 / 1024
EXAMPLES = 12
LEAST, MOST = 64, 4096  # shards of a run; runs, which the first rank adds up
Scored = tuple[float, str, str]
"""(score, shard, key)."""


def runs(num_shards: int) -> list[range]:
    """The shards of every run."""
    size = max(LEAST, math.ceil(num_shards / MOST))
    return [range(start, min(start + size, num_shards)) for start in range(0, num_shards, size)]


@dataclass(frozen=True)
class Labels:
    """Labels of a run of shards, row after row: keys [n], cluster int32 [n] (-1 = none), distance fp32 [n]; rows by
    shard. digest: of all of it."""

    shards: list[str]
    rows: list[int]
    keys: pa.ChunkedArray
    cluster: np.ndarray
    distance: np.ndarray
    digest: str

    @cached_property
    def start(self) -> np.ndarray:
        """int64 [shards + 1]: the first row of every shard."""
        return np.append(0, np.cumsum(self.rows))

    def names(self, rows: np.ndarray) -> list[tuple[str, str]]:
        """(shard, key) of some rows."""
        shard = np.searchsorted(self.start, rows, side="right") - 1
        keys = self.keys.take(pa.array(rows)).to_pylist()
        return [(self.shards[at], key) for at, key in zip(shard.tolist(), keys, strict=True)]


def read_run(paths: Sequence[Path], shards: Sequence[str]) -> Labels:
    """The label files of a run; `UserError` as of `read_labels`."""
    tables = [_columns(path, shard, ["key", "cluster", "distance"]) for path, shard in zip(paths, shards, strict=True)]
    table = pa.concat_tables(tables).combine_chunks()
    digest = hashlib.sha256(json.dumps([[*shards], [len(each) for each in tables]]).encode())
    filled = _filled(table)
    digest.update(content_sha256(pa.table({"key": table["key"], **filled}), ["key", *filled]).encode())
    rows = [len(each) for each in tables]
    return Labels([*shards], rows, table["key"], filled["cluster"], filled["distance"], digest.hexdigest())


def read_clusters(clusters: Clusters, shards: Sequence[str]) -> np.ndarray:
    """int32 [n]: the clusters of these shards in another stage, row after row."""
    tables = [_columns(clusters.path_of(shard), shard, ["cluster"]) for shard in shards]
    return pa.concat_tables(tables)["cluster"].fill_null(-1).to_numpy()


def sum_run(
    labels: Labels, previous: Sequence[np.ndarray], apart: Sequence[range], ks: Sequence[int], span: float, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, facts) of a run.

    previous: clusters of its rows in each earlier stage; ks: how many each of these has, and this one. apart: rows by
    shard that were never to have a label. span: the largest possible distance.
    """
    k = ks[-1]
    start = labels.start
    own = np.zeros(len(labels.cluster), bool)
    for at, rows in enumerate(apart):
        own[start[at] + rows.start : start[at] + rows.stop] = True
    failed = (labels.cluster < 0) & ~own
    good = np.flatnonzero(labels.cluster >= 0)
    cluster, distance = labels.cluster[good], labels.distance[good].astype(np.float64)
    bins = np.minimum((distance / span * BINS).astype(np.int64), BINS - 1)
    arrays = {
        "samples": np.array(labels.rows) - [len(rows) for rows in apart],
        "failed": np.array([int(part.sum()) for part in np.split(failed, start[1:-1])]),
        "distance_sum": np.bincount(cluster, distance, k),
        "squared_sum": np.array([np.square(distance).sum()]),
        "histogram": np.bincount(cluster * BINS + bins, minlength=k * BINS).reshape(k, BINS),
    }
    for stage, earlier in enumerate(previous):
        arrays[f"table_{stage}"] = contingency(earlier, labels.cluster, (ks[stage], k))
    by_cluster = np.argsort(cluster, kind="stable")
    bounds = np.searchsorted(cluster[by_cluster], np.arange(k + 1))
    members = [by_cluster[bounds[label] : bounds[label + 1]] for label in range(k)]
    facts = {
        "digest": labels.digest,
        "apart": sum(map(len, apart)),
        "failed": labels.names(np.flatnonzero(failed)),
        "nearest": _lowest(labels, good, members, distance),
        "random": _lowest(labels, good, members, _words(labels, seed)[good]),
    }
    return arrays, facts


def write_run(path: Path, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """One run's file, atomically."""
    with atomic_path(path) as temporary:
        save_file(arrays, temporary, metadata={"facts": json.dumps(facts)})


def lowest(scored: Sequence[Sequence[Any]]) -> list[Scored]:
    """The EXAMPLES lowest of some, ties by name."""
    return sorted((score, shard, key) for score, shard, key in scored)[:EXAMPLES]


def _lowest(labels: Labels, good: np.ndarray, members: list[np.ndarray], score: np.ndarray) -> list[list[Scored]]:
    """Each cluster's lowest, by cluster."""
    found = []
    for own in members:
        values = score[own]
        limit = np.partition(values, EXAMPLES - 1)[EXAMPLES - 1] if len(own) > EXAMPLES else None
        at = own if limit is None else own[values <= limit]
        scored = zip(score[at].tolist(), labels.names(good[at]), strict=True)
        found.append(lowest([(value, *name) for value, name in scored]))
    return found


def _words(labels: Labels, seed: int) -> np.ndarray:
    """uint64 [n]: a random word a row, by (seed, shard, row in it)."""
    words = [seeds.number_of(shard) for shard in labels.shards]
    shard = mix(np.array(words, np.uint64) ^ seeds.words(1, seed))
    row = np.arange(labels.start[-1]) - np.repeat(labels.start[:-1], labels.rows)
    return mix(np.repeat(shard, labels.rows) + row.astype(np.uint64))


def _columns(path: Path, shard: str, names: list[str]) -> pa.Table:
    """Some columns of one label file, all of whose rows are of `shard`, which its statistics tell."""
    try:
        file = pq.ParquetFile(pa.BufferReader(path.read_bytes()))
        for group in range(file.num_row_groups):
            told = file.metadata.row_group(group).column(0).statistics
            if told is not None and told.has_min_max and (first := told.min) != shard:
                raise pa.ArrowInvalid(f"it holds those of {first!r}")
        return file.read(names, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(shard, error) from None


def _filled(table: pa.Table) -> dict[str, np.ndarray]:
    return {
        "cluster": table["cluster"].fill_null(-1).to_numpy().astype(np.int32, copy=False),
        "distance": table["distance"].fill_null(np.nan).to_numpy().astype(np.float32, copy=False),
    }
