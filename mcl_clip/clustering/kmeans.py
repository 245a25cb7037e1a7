"""Spherical k-means on unit vectors (faiss), seeded, best of several restarts, finished on every point it is given."""

import contextlib
import gc
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import faiss
import numpy as np
import torch

from mcl_clip.errors import UserError
from mcl_clip.seeds import generator, words

# Unit vectors in fp32 are exact to about 1e-7; below this squared distance two of them are the same for us.
SAME = 1e-6

# Restarts compete on a sample, of which a cluster gets about SAMPLE / k points, at least FEWEST; the winner is finished
# on all points. A restart then costs the same for any reservoir, and its fixed point on the sample is near that of all.
SAMPLE, FEWEST = 32768, 256
FINISH = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KMeans:
    """Unit centroids `[K, D]` fp32; `objective` is the mean squared Euclidean distance of a point to its centroid (0 to
    4, lower is better); `sizes` counts the points of each cluster; `restarts` holds every restart's objective on the
    `sample` points that it was fitted on.
    """

    centroids: np.ndarray
    objective: float
    sizes: tuple[int, ...]
    restarts: tuple[float, ...] = ()
    sample: int = 0

    @property
    def is_whole(self) -> bool:
        """No cluster is empty, no two share a centroid."""
        return min(self.sizes) > 0 and _closest_pair(self.centroids) > SAME


def fit_kmeans(
    features: np.ndarray,
    k: int,
    *,
    seed: int,
    restarts: int = 3,
    iterations: int = 25,
    threads: int | None = None,
) -> KMeans:
    """Cluster unit vectors `features` [N, D] fp32 into `k` clusters; the same input and seed give the same bits.

    Every restart runs `iterations` on a sample of at least 32,768 points (all of them where there are no more), and the
    best goes on with 5 iterations on all N: faiss alone would look at 256 points a centroid. `threads` (default: every
    core of this process) changes the time only. The first GPU that faiss sees is used; where that fails, for want of
    memory say, a warning tells so and the CPU takes over. Raises `UserError` on non-finite or zero features, when all
    features are nearly the same, when `k` exceeds the number of distinct points, and when clusters come out empty or
    collapsed into each other.
    """
    features = np.ascontiguousarray(features, dtype=np.float32)
    _check(features, k)
    with _threads(threads or _cores()):
        if faiss.get_num_gpus():
            gc.collect()  # PyTorch keeps what training freed, and faiss would find the device full
            torch.cuda.empty_cache()
            try:
                return _fit(features, k, seed, restarts, iterations, gpu=True)
            except RuntimeError as error:
                log.warning("k-means goes on on the CPU: faiss cannot use the GPU (%s)", str(error).split("\n")[0])
        return _fit(features, k, seed, restarts, iterations, gpu=False)


def _fit(features: np.ndarray, k: int, seed: int, restarts: int, iterations: int, *, gpu: bool) -> KMeans:
    rows = _sample(len(features), max(SAMPLE, FEWEST * k), seed)
    restart_seeds = [int(word) & 0x7FFFFFFF for word in words(restarts, seed, k)]
    # A sample of many equal points may hold fewer than k distinct ones: then every restart sees all points.
    for sample in (features,) if len(rows) == len(features) else (features[rows], features):
        found = [_judge(sample, _train(sample, k, each, iterations, gpu=gpu)) for each in restart_seeds]
        for best in sorted((each for each in found if each.is_whole), key=lambda each: each.objective):
            if len(sample) < len(features):
                best = _judge(features, _train(features, k, restart_seeds[0], FINISH, best.centroids, gpu=gpu))
            if best.is_whole:
                objectives = tuple(each.objective for each in found)
                return replace(best, restarts=objectives, sample=len(sample))
    raise UserError(
        f"k-means left empty or collapsed clusters in each of {restarts} restarts with {k} clusters on "
        f"{len(features)} samples; lower --mcl-clusters"
    )


def assign(features: np.ndarray, centroids: np.ndarray, block: int = 65536) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centroid of unit vectors [N, D] among unit centroids [K, D]: (cluster int32 [N], distance fp32
    [N]).

    The distance is Euclidean, from 0 to 2. Ties go to the lower cluster.
    """
    cluster = np.empty(len(features), np.int32)
    distance = np.empty(len(features), np.float32)
    for start in range(0, len(features), block):
        similarity = features[start : start + block] @ centroids.T
        nearest = similarity.argmax(1)
        cosine = np.take_along_axis(similarity, nearest[:, None], 1)[:, 0]
        cluster[start : start + block] = nearest
        distance[start : start + block] = np.sqrt(np.maximum(2 - 2 * cosine, 0))
    return cluster, distance


def _sample(count: int, size: int, seed: int) -> np.ndarray:
    """Ascending rows of `size` of `count` points, all where there are no more."""
    if count <= size:
        return np.arange(count)
    return np.sort(generator(seed, count).choice(count, size, replace=False))


def _judge(features: np.ndarray, centroids: np.ndarray) -> KMeans:
    cluster, distance = assign(features, centroids)
    objective = float(np.mean(np.square(distance, dtype=np.float64)))
    return KMeans(centroids, objective, tuple(np.bincount(cluster, minlength=len(centroids)).tolist()))


def _train(
    features: np.ndarray, k: int, seed: int, iterations: int, start: np.ndarray | None = None, *, gpu: bool
) -> np.ndarray:
    kmeans = faiss.Kmeans(
        features.shape[1],
        k,
        niter=iterations,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=len(features),
        gpu=int(gpu),  # of that many devices
    )
    kmeans.train(features, init_centroids=start)
    assert kmeans.centroids is not None
    return kmeans.centroids


def _check(features: np.ndarray, k: int) -> None:
    if k < 1:
        raise UserError(f"--mcl-clusters is {k}; it must be at least 1")
    if len(features) < k:
        raise UserError(f"{k} clusters cannot be made of {len(features)} samples; lower --mcl-clusters")
    mean = np.zeros(features.shape[1])
    for block in np.array_split(features, len(features) // 65536 + 1):
        norms = np.linalg.norm(block, axis=1)
        bad = int(np.sum(~(np.abs(norms - 1) < 1e-3)))
        if bad:
            raise UserError(
                f"{bad} of {len(block)} features are NaN, infinite or zero; the stage's model is broken "
                f"or its precision "
                "too low: try --precision fp32, or train that stage again with a lower --lr "
                "(--mcl-clusters is not the cause)"
            )
        mean += block.sum(0, dtype=np.float64)
    distinct = _count_distinct(features, k)
    if distinct < k:
        raise UserError(
            f"the samples have only {distinct} distinct features, too few for {k} clusters; lower --mcl-clusters"
        )
    spread = 1 - float(np.sum(np.square(mean / len(features))))
    if k > 1 and spread < SAME:
        raise UserError(
            f"the model gives nearly the same feature to all samples (spread {spread:.1e}), so its "
            f"clusters mean nothing; "
            "check the model, or use --mcl-clusters 1"
        )


def _count_distinct(features: np.ndarray, enough: int) -> int:
    """Number of distinct rows, counted no further than `enough`."""
    seen: set[bytes] = set()
    for row in features:
        seen.add(row.tobytes())
        if len(seen) >= enough:
            break
    return len(seen)


def _closest_pair(centroids: np.ndarray) -> float:
    """Smallest squared distance between two centroids; infinite for a single one."""
    squared = 2 - 2 * (centroids.astype(np.float64) @ centroids.astype(np.float64).T)
    np.fill_diagonal(squared, np.inf)
    return float(squared.min())


def _cores() -> int:
    # Not OMP_NUM_THREADS: torchrun sets it to 1, and while one rank fits, the others only wait.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
