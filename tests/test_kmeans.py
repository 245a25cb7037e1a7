import faiss
import numpy as np
import pytest
import torch

from mcl_clip.clustering import kmeans
from mcl_clip.clustering.kmeans import assign, fit_kmeans
from mcl_clip.errors import UserError


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def blobs(count: int, modes: int, dimension: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = unit(rng.standard_normal((modes, dimension)))
    return unit(centers[np.arange(count) % modes] + noise * rng.standard_normal((count, dimension)))


def lloyd(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Slow twin: one iteration of spherical k-means, point by point."""
    sums = np.zeros_like(centroids, dtype=np.float64)
    for point in points:
        sums[max(range(len(centroids)), key=lambda c: float(point @ centroids[c]))] += point
    return unit(sums)


def test_finds_separated_modes_from_every_point():
    points = blobs(4000, 4, 16, 0.02)
    found = fit_kmeans(points, 4, seed=1)
    assert found.sizes == (1000, 1000, 1000, 1000)
    cluster, distance = assign(points, found.centroids)
    assert all(len(set(cluster[mode::4].tolist())) == 1 for mode in range(4))
    assert found.objective == pytest.approx(float(np.mean(distance.astype(np.float64) ** 2)))


def test_centroids_are_a_fixed_point_of_lloyd_on_all_points():
    # 3,000 points: faiss alone would fit on 5 x 256 of them, whose fixed point is another one.
    points = blobs(3000, 5, 8, 0.15)
    found = fit_kmeans(points, 5, seed=3, iterations=100)
    assert np.allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-5)
    assert np.allclose(lloyd(points, found.centroids), found.centroids, atol=1e-4)


def test_the_winner_on_a_sample_is_finished_on_every_point(monkeypatch):
    points = blobs(6000, 40, 16, 0.15)
    whole = fit_kmeans(points, 5, seed=3, iterations=100)
    monkeypatch.setattr(kmeans, "SAMPLE", 1500)
    monkeypatch.setattr(kmeans, "FEWEST", 50)
    found = fit_kmeans(points, 5, seed=3)
    assert (found.sample, whole.sample, sum(found.sizes)) == (1500, 6000, 6000)
    assert found.objective == pytest.approx(float(np.mean(assign(points, found.centroids)[1].astype(np.float64) ** 2)))
    assert found.objective < 1.02 * whole.objective
    assert np.abs(lloyd(points, found.centroids) - found.centroids).max() < 0.01
    with monkeypatch.context() as patch:
        patch.setattr(kmeans, "FINISH", 0)
        rough = fit_kmeans(points, 5, seed=3)
    assert found.objective < rough.objective


def test_a_sample_of_too_many_equal_points_gives_way_to_all(monkeypatch):
    points = np.repeat(blobs(3, 3, 8, 0.1), 40, axis=0)
    monkeypatch.setattr(kmeans, "SAMPLE", 3)
    monkeypatch.setattr(kmeans, "FEWEST", 1)
    found = [fit_kmeans(points, 3, seed=seed, restarts=10) for seed in range(8)]
    assert {each.sample for each in found} == {3, 120}
    assert all(each.sizes == (40, 40, 40) for each in found)


def test_assign_agrees_with_a_double_loop():
    points, centroids = blobs(257, 7, 6, 0.5), blobs(9, 9, 6, 0.5, seed=2)
    cluster, distance = assign(points, centroids, block=100)
    for i, point in enumerate(points):
        distances = [float(np.linalg.norm(point - centroid)) for centroid in centroids]
        assert distance[i] == pytest.approx(min(distances), abs=1e-3)
        assert distances[cluster[i]] == pytest.approx(min(distances), abs=1e-5)
    assert assign(points[:0], centroids)[0].shape == (0,)


def test_same_seed_same_bits_under_any_number_of_threads():
    points = blobs(40_000, 30, 32, 0.1)
    found = []
    before = faiss.omp_get_max_threads()
    for threads in (1, 3, 1):
        faiss.omp_set_num_threads(threads)
        found.append(fit_kmeans(points, 10, seed=11, threads=threads).centroids.tobytes())
    faiss.omp_set_num_threads(before)
    assert len(set(found)) == 1
    assert fit_kmeans(points, 10, seed=12).centroids.tobytes() != found[0]


def test_keeps_the_best_restart_and_reports_all():
    points = blobs(2000, 12, 16, 0.1)
    found = fit_kmeans(points, 8, seed=0, restarts=6)
    assert len(found.restarts) == 6 and found.objective == min(found.restarts) < max(found.restarts)


def test_leaves_the_thread_count_alone():
    faiss.omp_set_num_threads(1)
    fit_kmeans(blobs(100, 3, 8, 0.1), 3, seed=0)
    assert faiss.omp_get_max_threads() == 1


def broken(value: float) -> np.ndarray:
    points = blobs(50, 5, 8, 0.1)
    points[17, 2] = value
    return points


@pytest.mark.parametrize(
    ("points", "k", "reason"),
    [
        (blobs(5, 5, 8, 0.1), 6, "6 clusters cannot be made of 5 samples"),
        (np.repeat(blobs(3, 3, 8, 0.1), 10, axis=0), 4, "only 3 distinct"),
        (broken(np.nan), 2, "NaN"),
        (broken(np.inf), 2, "NaN, infinite"),
        (np.zeros((20, 4), np.float32), 2, "zero"),
        (
            unit(np.eye(8)[:1] + 1e-5 * np.random.default_rng(0).standard_normal((99, 8))),
            3,
            "nearly the same feature",
        ),
        (blobs(5, 5, 8, 0.1), 0, "at least 1"),
    ],
)
def test_bad_input_is_refused_with_a_mend(points, k, reason):
    with pytest.raises(UserError, match=reason) as error:
        fit_kmeans(points, k, seed=0)
    assert "--mcl-clusters" in str(error.value)


def test_collapsed_clusters_are_refused():
    # Three distinct rows, two of which differ in one last bit: two clusters would share a centroid.
    rows = blobs(2, 2, 8, 0.1)
    points = np.repeat(np.concatenate([rows, np.nextafter(rows[:1], 2, dtype=np.float32)]), 20, axis=0)
    with pytest.raises(UserError, match=r"empty or collapsed.*lower --mcl-clusters"):
        fit_kmeans(points, 3, seed=0)


def test_one_cluster_is_allowed():
    assert fit_kmeans(blobs(50, 5, 8, 0.1), 1, seed=0).sizes == (50,)


class FullDevice:
    """Stands in for faiss.Kmeans where the GPU has no memory left; on the CPU it is the real one."""

    real = faiss.Kmeans
    devices: list[int]

    def __init__(self, *arguments, gpu, **options):
        self.devices.append(gpu)
        self.own = self.real(*arguments, gpu=False, **options)
        self.full = bool(gpu)

    def train(self, *arguments, **options):
        if self.full:
            raise RuntimeError("cudaMalloc error out of memory [2] (size 1610612736)\nmore")
        self.own.train(*arguments, **options)
        self.centroids = self.own.centroids


def test_a_full_device_is_told_and_the_cpu_fits_the_same_clusters(monkeypatch, caplog):
    points = blobs(500, 3, 8, 0.05)
    wanted = fit_kmeans(points, 3, seed=0)
    emptied: list[bool] = []
    FullDevice.devices = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(not FullDevice.devices))
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "Kmeans", FullDevice)
    found = fit_kmeans(points, 3, seed=0)
    np.testing.assert_array_equal(found.centroids, wanted.centroids)
    assert emptied == [True], "caches are emptied before faiss asks for memory"
    assert FullDevice.devices == [1, 0, 0, 0], "one device of two, then the CPU"
    assert "goes on on the CPU" in caplog.text and "cudaMalloc error out of memory" in caplog.text
