"""What the clusters mean: one pass over the label files, in memory that depends on K but not on the
samples.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

from mcl_clip.clustering.clusters import LabelRows
from mcl_clip.clustering.information import contingency, entropy_bits, information
from mcl_clip.clustering.reservoir import key_hashes

BINS = 1024  # of the distance, from 0 to 2: quantiles are exact to 2 / 1024
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EXAMPLES = 12
LISTED = 100


class Summary:
    """Add every shard in order, then ask for `result()`."""

    def __init__(self, k: int, span: float, previous_k: Sequence[int], seed: int, failed_file: IO[str]):
        """`span` is the largest possible distance; failed samples are written to `failed_file` as JSON
        lines.
        """
        self.k, self.span, self.seed, self.failed_file = k, span, seed, failed_file
        self.samples = 0
        self.failed: list[list[str]] = []
        self.failed_count = self.apart = 0
        self.distance_sum = np.zeros(k)
        self.squared_sum = 0.0
        self.histogram = np.zeros((k, BINS), np.int64)
        self.tables = [np.zeros((before, k), np.int64) for before in previous_k]
        self.nearest: list[list[tuple]] = [[] for _ in range(k)]
        self.random: list[list[tuple]] = [[] for _ in range(k)]
        self.digest = hashlib.sha256()

    def add(self, shard: str, rows: LabelRows, previous: Sequence[LabelRows], apart: range) -> None:
        """Take in one shard's labels and those of the earlier stages, row for row; those `apart` have none."""
        self.digest.update(json.dumps([shard, rows.keys]).encode())
        self.digest.update(rows.cluster.tobytes() + rows.distance.tobytes())
        self.samples += len(rows.keys) - len(apart)
        self.apart += len(apart)
        for row in np.flatnonzero(rows.cluster < 0).tolist():
            if row not in apart:
                self._fail(shard, rows.keys[row])
        for table, earlier in zip(self.tables, previous, strict=True):
            table += contingency(earlier.cluster, rows.cluster, table.shape)
        good = np.flatnonzero(rows.cluster >= 0)
        cluster, distance = rows.cluster[good], rows.distance[good].astype(np.float64)
        self.distance_sum += np.bincount(cluster, distance, self.k)
        self.squared_sum += float(np.square(distance).sum())
        bins = np.minimum((distance / self.span * BINS).astype(np.int64), BINS - 1)
        self.histogram += np.bincount(cluster * BINS + bins, minlength=self.k * BINS).reshape(self.k, BINS)
        # Salted apart from the reservoir, whose choice these samples must not repeat.
        hashes = key_hashes(shard, [rows.keys[row] for row in good], self.seed + 1)
        self._keep(self.nearest, shard, rows, good, cluster, distance)
        self._keep(self.random, shard, rows, good, cluster, hashes)

    def result(self) -> dict[str, Any]:
        """The summary as JSON values."""
        sizes = self.histogram.sum(1)
        return {
            "samples": self.samples,
            "apart": self.apart,
            "failed": {"count": self.failed_count, "first": self.failed, "list": "failed.jsonl"},
            "sizes": sizes.tolist(),
            "imbalance": {
                "largest_over_mean": float(sizes.max() / max(sizes.mean(), 1e-12)),
                "smallest_over_mean": float(sizes.min() / max(sizes.mean(), 1e-12)),
                "effective_clusters": float(2 ** entropy_bits(sizes)),
                "empty": int((sizes == 0).sum()),
            },
            "mean_squared_distance": self.squared_sum / max(int(sizes.sum()), 1),
            "distances": [self._distances(cluster) for cluster in range(self.k)],
            "previous_stages": [{"stage": stage, **information(table)} for stage, table in enumerate(self.tables)],
            "examples": [
                {"nearest": _names(self.nearest[cluster]), "random": _names(self.random[cluster])}
                for cluster in range(self.k)
            ],
        }

    def _fail(self, shard: str, key: str) -> None:
        self.failed_count += 1
        self.failed_file.write(json.dumps({"shard": shard, "key": key}) + "\n")
        if len(self.failed) < LISTED:
            self.failed.append([shard, key])

    def _keep(self, best: list[list[tuple]], shard: str, rows: LabelRows, good, cluster, score) -> None:
        """Merge each cluster's lowest scores of this shard into the lowest so far."""
        order = np.lexsort((score, cluster))
        starts = np.searchsorted(cluster[order], np.arange(self.k + 1))
        for label in range(self.k):
            for at in order[starts[label] : min(starts[label + 1], starts[label] + EXAMPLES)]:
                best[label].append((score[at].item(), shard, rows.keys[good[at]]))
            best[label] = sorted(best[label])[:EXAMPLES]

    def _distances(self, cluster: int) -> dict[str, Any]:
        counts = self.histogram[cluster]
        size = int(counts.sum())
        if not size:
            return {"mean": None, "quantiles": {}}
        reached = np.searchsorted(np.cumsum(counts), [quantile * size for quantile in QUANTILES])
        middles = (reached + 0.5) * self.span / BINS
        return {
            "mean": float(self.distance_sum[cluster] / size),
            "quantiles": {str(q): float(value) for q, value in zip(QUANTILES, middles, strict=True)},
        }


def _names(best: list[tuple]) -> list[list[str]]:
    return [[shard, key] for _, shard, key in best]
