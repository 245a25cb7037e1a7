"""How much one labelling says about another: mutual information and agreement from a contingency table."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mcl_clip.clustering.clusters import Clusters
from mcl_clip.errors import UserError


def contingency(a: np.ndarray, b: np.ndarray, sizes: tuple[int, int]) -> np.ndarray:
    """Counts int64 [sizes] of samples with label i in `a` and j in `b`; negative labels (failed) are left
    out.
    """
    both = (a >= 0) & (b >= 0)
    joint = a[both].astype(np.int64) * sizes[1] + b[both]
    return np.bincount(joint, minlength=sizes[0] * sizes[1]).reshape(sizes)


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy of a distribution given as counts, in bits."""
    p = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(p * np.log2(p)).sum()) + 0.0


def information(table: np.ndarray) -> dict[str, float]:
    """`bits`: mutual information; `normalized`: the same over the mean of both entropies (0 to 1), as in
    scikit-learn's normalized_mutual_info_score; `new_bits`: what the second labelling says beyond the
    first.
    """
    rows, columns = entropy_bits(table.sum(1)), entropy_bits(table.sum(0))
    bits = max(rows + columns - entropy_bits(table.ravel()), 0.0)
    mean = (rows + columns) / 2
    return {"bits": bits, "normalized": bits / mean if mean else 1.0, "new_bits": max(columns - bits, 0.0)}


def adjusted_rand_index(table: np.ndarray) -> float:
    """Agreement of two clusterings up to renaming: 1 for the same, 0 for what chance gives (Hubert, Arabie
    1985).
    """

    def pairs(counts: np.ndarray) -> float:
        return float((counts.astype(np.float64) * (counts - 1) / 2).sum())

    same, rows, columns = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = rows * columns / max(pairs(table.sum(keepdims=True)), 1)
    most = (rows + columns) / 2
    return 1.0 if most == chance else (same - chance) / (most - chance)


def agreement(first: str | Path, second: str | Path) -> float:
    """Adjusted Rand index of two clusters directories of the same data, for example of two precisions or
    devices.
    """
    a, b = Clusters.load(first), Clusters.load(second)
    if a.data_hash != b.data_hash:
        raise UserError(
            f"{first} and {second} were made from different data; compare clusters of the same --train-data"
        )
    table = np.zeros((a.k, b.k), np.int64)
    for shard in a.shard_names:
        table += contingency(a.labels_of(shard).cluster, b.labels_of(shard).cluster, table.shape)
    return adjusted_rand_index(table)


def attribute_information(
    directory: str | Path, attributes: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Mutual information of the clusters with each known attribute of the samples, by attribute name.

    `attributes` maps (source shard, key) to the sample's attributes, values compared as text; samples it does
    not name are left out. The values are those of `information`, attribute first: `new_bits` is what the
    clusters say beyond it.
    """
    clusters = Clusters.load(directory)
    counts: dict[str, Counter[tuple[str, int]]] = {}
    for shard in clusters.shard_names:
        rows = clusters.labels_of(shard)
        for key, cluster in zip(rows.keys, rows.cluster.tolist(), strict=True):
            if cluster < 0:
                continue
            for name, value in attributes.get((shard, key), {}).items():
                counts.setdefault(name, Counter())[(str(value), cluster)] += 1
    return {name: information(_table(pairs, clusters.k)) for name, pairs in sorted(counts.items())}


def _table(pairs: Counter[tuple[str, int]], k: int) -> np.ndarray:
    values = {value: row for row, value in enumerate(sorted({value for value, _ in pairs}))}
    table = np.zeros((len(values), k), np.int64)
    for (value, cluster), count in pairs.items():
        table[values[value], cluster] += count
    return table
