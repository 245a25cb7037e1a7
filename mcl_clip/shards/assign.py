"""Which samples go into which bucket shard: arithmetic on counts, before a byte is copied."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def cut_units(shard_rows: Sequence[int] | np.ndarray, limit: int) -> list[tuple[int, int]]:
    """Runs [first, last) of consecutive shards with at most `limit` rows each (or one shard alone)."""
    units, first, total = [], 0, 0
    for shard, rows in enumerate(np.asarray(shard_rows).tolist()):
        if total + rows > limit and shard > first:
            units.append((first, shard))
            first, total = shard, 0
        total += rows
    return [*units, (first, len(shard_rows))] if len(shard_rows) else units


@dataclass(frozen=True)
class Assignment:
    """Bucket shards, group by group (a label, or those of its samples that are repeated as often).

    Those of a group hold its samples in source order, `shard_size` each. counts: int32 [units, groups], labelled
    samples. group, size: int32 [shards]. first: int64 [shards], index of a shard's first sample among those of its
    group. order: int64 [shards], shards by the unit where they start; written in this order, neighbours read the same
    source tars.
    """

    counts: np.ndarray
    group: np.ndarray
    size: np.ndarray
    first: np.ndarray
    order: np.ndarray

    def pieces(self, shard: int) -> list[tuple[int, int, int]]:
        """(unit, start, stop): the rows of the units, each sorted by group, that make up a shard."""
        group, first = int(self.group[shard]), int(self.first[shard])
        last = first + int(self.size[shard])
        ends = np.cumsum(self.counts[:, group], dtype=np.int64)
        pieces = []
        unit = int(np.searchsorted(ends, first, side="right"))
        while first < last:
            start = int(ends[unit]) - int(self.counts[unit, group])
            stop = min(last, int(ends[unit]))
            if first < stop:
                offset = int(self.counts[unit, :group].sum(dtype=np.int64)) - start
                pieces.append((unit, first + offset, stop + offset))
            first, unit = stop, unit + 1
        return pieces


def assign(counts: np.ndarray, shard_size: int) -> Assignment:
    """Cut every group's samples, unit after unit, into shards of `shard_size`; only its last may be short."""
    totals = counts.sum(axis=0, dtype=np.int64)
    shards = -(-totals // shard_size)
    group = np.repeat(np.arange(len(totals), dtype=np.int32), shards)
    within = np.arange(len(group)) - (np.cumsum(shards) - shards)[group]
    first = within * shard_size
    size = np.minimum(totals[group] - first, shard_size).astype(np.int32)
    start_unit = np.empty(len(group), np.int64)
    bounds = np.append(0, np.cumsum(shards))
    for index in np.flatnonzero(totals):
        ends = np.cumsum(counts[:, index], dtype=np.int64)
        own = slice(bounds[index], bounds[index + 1])
        start_unit[own] = np.searchsorted(ends, first[own], side="right")
    order = np.lexsort((first, start_unit))
    return Assignment(counts, group, size, first, order)
