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
    """Bucket shards, label by label: those of a label hold its samples in source order, `shard_size` each.

    counts: int32 [units, labels], labelled samples. label, size: int32 [shards]. first: int64 [shards], index
    of a shard's first sample among those of its label. order: int64 [shards], shards by the unit where they
    start; written in this order, neighbours read the same source tars.
    """

    counts: np.ndarray
    label: np.ndarray
    size: np.ndarray
    first: np.ndarray
    order: np.ndarray

    def pieces(self, shard: int) -> list[tuple[int, int, int]]:
        """(unit, start, stop): the rows of the units, each sorted by label, that make up a shard."""
        label, first = int(self.label[shard]), int(self.first[shard])
        last = first + int(self.size[shard])
        ends = np.cumsum(self.counts[:, label], dtype=np.int64)
        pieces = []
        unit = int(np.searchsorted(ends, first, side="right"))
        while first < last:
            start = int(ends[unit]) - int(self.counts[unit, label])
            stop = min(last, int(ends[unit]))
            if first < stop:
                offset = int(self.counts[unit, :label].sum(dtype=np.int64)) - start
                pieces.append((unit, first + offset, stop + offset))
            first, unit = stop, unit + 1
        return pieces


def assign(counts: np.ndarray, shard_size: int) -> Assignment:
    """Cut every label's samples, unit after unit, into shards of `shard_size`; only its last may be short."""
    totals = counts.sum(axis=0, dtype=np.int64)
    shards = -(-totals // shard_size)
    label = np.repeat(np.arange(len(totals), dtype=np.int32), shards)
    within = np.arange(len(label)) - (np.cumsum(shards) - shards)[label]
    first = within * shard_size
    size = np.minimum(totals[label] - first, shard_size).astype(np.int32)
    start_unit = np.empty(len(label), np.int64)
    for index in np.flatnonzero(totals):
        ends = np.cumsum(counts[:, index], dtype=np.int64)
        start_unit[label == index] = np.searchsorted(ends, first[label == index], side="right")
    order = np.lexsort((first, start_unit))
    return Assignment(counts, label, size, first, order)
