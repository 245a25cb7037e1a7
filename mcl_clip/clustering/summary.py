"""What the clusters mean: the sums of all runs, in order, in memory that depends on K but not on the samples."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import safe_open

from mcl_clip.clustering.information import entropy_bits, information
from mcl_clip.clustering.sums import BINS, Scored, lowest

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LISTED = 100


class Summary:
    """Add every run in order, then ask for `result()`."""

    def __init__(self, k: int, span: float, previous_k: Sequence[int], failed_file: IO[str]):
        """`span` is the largest possible distance; failed samples are written to `failed_file` as JSON lines."""
        self.k, self.span, self.failed_file = k, span, failed_file
        self.samples: list[np.ndarray] = []
        self.failed: list[np.ndarray] = []
        self.first_failed: list[list[str]] = []
        self.apart = 0
        self.distance_sum = np.zeros(k)
        self.squared_sum = 0.0
        self.histogram = np.zeros((k, BINS), np.int64)
        self.tables = [np.zeros((before, k), np.int64) for before in previous_k]
        self.nearest: list[list[Scored]] = [[] for _ in range(k)]
        self.random: list[list[Scored]] = [[] for _ in range(k)]
        self.digest = hashlib.sha256()

    def add(self, path: Path) -> None:
        """Take in the file of one run (see `sums.write_run`)."""
        with safe_open(path, "numpy") as file:
            facts = json.loads(file.metadata()["facts"])
            self.samples.append(file.get_tensor("samples"))
            self.failed.append(file.get_tensor("failed"))
            self.distance_sum += file.get_tensor("distance_sum")
            self.squared_sum += float(file.get_tensor("squared_sum")[0])
            self.histogram += file.get_tensor("histogram")
            for stage, table in enumerate(self.tables):
                table += file.get_tensor(f"table_{stage}")
        self.digest.update(facts["digest"].encode())
        self.apart += facts["apart"]
        self.failed_file.writelines(json.dumps({"shard": shard, "key": key}) + "\n" for shard, key in facts["failed"])
        self.first_failed += facts["failed"][: LISTED - len(self.first_failed)]
        for best, more in ((self.nearest, facts["nearest"]), (self.random, facts["random"])):
            for cluster in range(self.k):
                best[cluster] = lowest([*best[cluster], *more[cluster]])

    def result(self) -> dict[str, Any]:
        """The summary as JSON values."""
        sizes = self.histogram.sum(1)
        failed = int(sum(part.sum() for part in self.failed))
        return {
            "samples": int(sum(part.sum() for part in self.samples)),
            "apart": self.apart,
            "failed": {"count": failed, "first": self.first_failed, "list": "failed.jsonl"},
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


def _names(best: list[Scored]) -> list[list[str]]:
    return [[shard, key] for _, shard, key in best]
