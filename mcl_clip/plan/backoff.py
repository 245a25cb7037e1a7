"""Pseudo-labels with too few samples for useful negatives back off to their parent path."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BackOff:
    """Which effective label every pseudo-label belongs to.

    names: effective labels. A pseudo-label that stands for itself keeps its path; the pool of the small ones
    below `3/7` is named `3/7/*`, the pool of the root `*`. effective: int32 [labels], index into names.
    moved_labels and moved_samples count what joined a pool; lone_samples counts the samples of effective
    labels that stayed below the minimum.
    """

    names: tuple[str, ...]
    effective: np.ndarray
    moved_labels: int
    moved_samples: int
    lone_samples: int


def back_off(label_paths: Sequence[str], sizes: Sequence[int] | np.ndarray, minimum: int) -> BackOff:
    """Give every pseudo-label with 0 < samples < minimum to the pool of its small siblings, level by level.

    A pool that is still too small joins the pool of its own parent, up to the root. Large labels are never
    touched: their negatives stay what the earlier stages cannot tell apart. Empty labels stand for
    themselves.
    """
    paths = [tuple(path.split("/")) if path else () for path in label_paths]
    small = [label for label, size in enumerate(sizes) if 0 < size < minimum]
    pools: dict[tuple[str, ...], list[int]] = {}
    settled: list[tuple[tuple[str, ...], list[int]]] = []
    by_depth: dict[int, list[int]] = {}
    for label in small:
        by_depth.setdefault(len(paths[label]), []).append(label)
    for depth in range(max(by_depth, default=0), 0, -1):
        gathered: dict[tuple[str, ...], list[int]] = {}
        for parent, members in pools.items():
            gathered.setdefault(parent[: depth - 1], []).extend(members)
        for label in by_depth.get(depth, ()):
            gathered.setdefault(paths[label][: depth - 1], []).append(label)
        pools = {}
        for parent, members in gathered.items():
            enough = sum(int(sizes[label]) for label in members) >= minimum
            if enough or depth == 1:
                settled.append((parent, members))
            else:
                pools[parent] = members
    pooled = {label: index for index, (_, members) in enumerate(settled) for label in members}
    alone = [label for label in range(len(paths)) if label not in pooled]
    names = [label_paths[label] for label in alone] + ["/".join((*parent, "*")) for parent, _ in settled]
    effective = np.empty(len(paths), np.int32)
    effective[alone] = np.arange(len(alone))
    for label, index in pooled.items():
        effective[label] = len(alone) + index
    totals = np.bincount(effective, np.asarray(sizes, np.int64), len(names)).astype(np.int64)
    return BackOff(
        names=tuple(names),
        effective=effective,
        moved_labels=len(pooled),
        moved_samples=sum(int(sizes[label]) for label in pooled),
        lone_samples=int(totals[totals < minimum].sum()),
    )
