"""Our k-means and scikit-learn's MiniBatchKMeans on the same unit vectors, judged by the same objective.

The objective is the mean squared distance of all points to the nearest of the centroids, scaled to unit norm.
"""

import argparse

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from benchmarks.clustering.clock import timed
from mcl_clip import seeds
from mcl_clip.clustering.kmeans import assign, fit_kmeans

MODES, LATENT, NOISE = 60, 32, 0.22


def measure(options: argparse.Namespace) -> dict:
    """Seconds and objective of both; the peer has the settings of the method's reference implementation."""
    points, overlap = overlapping_modes(options.points, options.dim, options.seed)
    one_s, one = timed(lambda: fit_kmeans(points, options.clusters, seed=options.seed, restarts=1))
    best_s, best = timed(lambda: fit_kmeans(points, options.clusters, seed=options.seed, restarts=options.restarts))
    settings = {"batch_size": 1_000_000, "max_iter": 100, "tol": 1e-5, "random_state": options.seed}
    peer_s, peer = timed(lambda: MiniBatchKMeans(options.clusters, **settings).fit(points))
    centers = peer.cluster_centers_ / np.linalg.norm(peer.cluster_centers_, axis=1, keepdims=True)
    reached = {
        name: float(np.mean(np.square(assign(points, centroids.astype(np.float32))[1], dtype=np.float64)))
        for name, centroids in (("one", one.centroids), ("best", best.centroids), ("peer", centers))
    }
    return {
        "speedup_vs_minibatch_kmeans": round(peer_s / one_s, 2),
        "speedup_with_restarts": round(peer_s / best_s, 2),
        "objective_ratio": round(reached["one"] / reached["peer"], 5),
        "objective_ratio_with_restarts": round(reached["best"] / reached["peer"], 5),
        "kmeans_s": round(one_s, 4),
        "kmeans_with_restarts_s": round(best_s, 4),
        "minibatch_kmeans_s": round(peer_s, 4),
        "minibatch_kmeans_steps": int(peer.n_steps_),
        "objectives": {name: round(value, 5) for name, value in reached.items()},
        "modes_overlap": round(overlap, 3),
    }


def overlapping_modes(count: int, dim: int, seed: int) -> tuple[np.ndarray, float]:
    """Unit vectors [count, dim] fp32 around 60 centers of a 32-dimensional subspace, with a little noise in all
    dimensions; and the share of them that lie nearer to another mode's center than to their own."""
    random = seeds.generator(seed, count)
    latent = min(LATENT, dim)
    centers = random.standard_normal((MODES, latent), np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    lift = np.linalg.qr(random.standard_normal((dim, latent)))[0].T.astype(np.float32)
    points = np.empty((count, dim), np.float32)
    strayed = 0
    for start in range(0, count, 1 << 15):
        block = points[start : start + (1 << 15)]
        mode = random.integers(0, MODES, len(block))
        inner = centers[mode] + NOISE * random.standard_normal((len(block), latent), np.float32)
        strayed += int(np.sum((inner @ centers.T).argmax(1) != mode))
        block[:] = inner @ lift + 0.02 * random.standard_normal((len(block), dim), np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return points, strayed / count
