"""The passes over the data: embed the reservoir, fit, label. Files are the rendezvous: a phase holds no
collective, every file is whole or absent, and what is there is not made again.

When all samples fit the reservoir, labelling reads its features instead of images: one pass over the data.
"""

import json
import shutil
from collections.abc import Iterable, Iterator

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from mcl_clip.artifacts import atomic_path
from mcl_clip.clustering.behind import written_behind
from mcl_clip.clustering.clusters import LabelRows, features_path, labels_path, write_labels
from mcl_clip.clustering.features import ShardFeatures, embed
from mcl_clip.clustering.job import Job
from mcl_clip.clustering.kmeans import assign, fit_kmeans
from mcl_clip.clustering.reservoir import choose, key_hashes, smallest
from mcl_clip.errors import UserError
from mcl_clip.world import appears


def embed_reservoir(job: Job) -> None:
    """Each rank, its shards: features of the samples chosen by hash, all samples where they fit."""
    missing = [ordinal for ordinal in job.ordinals() if not job.reservoir_path(ordinal).exists()]
    requests = ((ordinal, _chosen(job, ordinal)) for ordinal in missing)
    with written_behind() as write:
        for part in _embedded(job, requests, len(missing), "reservoir"):
            write(_keep_reservoir, job, part)


def fit(job: Job) -> None:
    """Rank 0: k-means on the reservoir, one tower in memory at a time, in the order of the shards.

    Where it cannot be, for too many clusters, say, the directory goes: the same job with fewer finds a clean place.
    """
    centroids, report = {}, {}
    for tower, k in job.settings.clusters_by_tower.items():
        try:
            found = fit_kmeans(_reservoir(job, tower), k, seed=job.settings.seed, restarts=job.settings.restarts)
        except UserError:
            shutil.rmtree(job.out, ignore_errors=True)
            raise
        centroids[tower] = found.centroids
        report[tower] = {
            "k": k,
            "points": sum(found.sizes),
            "sizes": found.sizes,
            "objective": found.objective,
            "restarts_on": found.sample,
            "restart_objectives": found.restarts,
        }
    with atomic_path(job.centroids_path) as temporary:
        save_file(centroids, temporary, metadata={"fit": json.dumps(report)})


def label(job: Job) -> None:
    """Each rank, its shards: the nearest centroid of every sample, null for failed ones and those set apart."""
    centroids = load_file(appears(job.centroids_path, job.world))
    missing = [ordinal for ordinal in job.ordinals() if not job.is_labelled(ordinal)]
    if job.limit is None:
        parts: Iterable[ShardFeatures] = (_stored(job, ordinal) for ordinal in missing)
    else:
        rows = ((ordinal, np.arange(job.manifest.shard_size[ordinal])) for ordinal in missing)
        parts = _embedded(job, rows, len(missing), "labels")
    with written_behind() as write:
        for part in parts:
            write(_label_shard, job, part, centroids)


def _label_shard(job: Job, part: ShardFeatures, centroids: dict[str, np.ndarray]) -> None:
    shard = job.manifest.shard_names[part.ordinal]
    keys = list(job.manifest.open_shard(part.ordinal).keys)
    _refuse_broken(part, shard, keys)
    if job.keep_features:
        _keep_features(job, part, len(keys))
    write_labels(labels_path(job.out, part.ordinal), shard, nearest(part, centroids, keys))


def nearest(part: ShardFeatures, centroids: dict[str, np.ndarray], keys: list[str]) -> LabelRows:
    """Labels of one shard. Over several towers: the index in the product of their clusters, in the order of
    `centroids` sorted by name (image, text), and the Euclidean distance of the concatenated features."""
    cluster = np.full(len(keys), -1, np.int32)
    distance = np.full(len(keys), np.nan, np.float32)
    if len(part.rows):
        index, squared = np.zeros(len(part.rows), np.int32), np.zeros(len(part.rows), np.float32)
        for tower in sorted(centroids):
            own, to_own = assign(part.features[tower], centroids[tower])
            index = index * len(centroids[tower]) + own
            squared += np.square(to_own)
        cluster[part.rows], distance[part.rows] = index, np.sqrt(squared)
    return LabelRows(keys, cluster, distance)


def _embedded(job: Job, requests: Iterable[tuple[int, np.ndarray]], shards: int, title: str) -> Iterator[ShardFeatures]:
    if not shards:
        return iter(())
    parts = embed(job.encoder, job.manifest, requests, batch_size=job.settings.batch_size, workers=job.workers)
    return tqdm(parts, f"embed {title}", shards, unit="shard", disable=not job.progress or not job.world.is_first)


def _keep_reservoir(job: Job, part: ShardFeatures) -> None:
    tensors = {"rows": part.rows, **part.features}
    if job.limit is not None:
        tensors["hashes"] = _hashes(job, part.ordinal)[part.rows]
    with atomic_path(job.reservoir_path(part.ordinal)) as temporary:
        save_file(tensors, temporary)


def _hashes(job: Job, ordinal: int) -> np.ndarray:
    shard = job.manifest.open_shard(ordinal)
    keys = shard.keys[: len(shard)]
    return key_hashes(job.manifest.shard_names[ordinal], keys, job.settings.seed)


def _chosen(job: Job, ordinal: int) -> np.ndarray:
    if job.limit is None:
        return np.arange(job.manifest.shard_size[ordinal])
    return choose(_hashes(job, ordinal), job.limit)


def _stored(job: Job, ordinal: int) -> ShardFeatures:
    tensors = load_file(job.reservoir_path(ordinal))
    return ShardFeatures(ordinal, tensors.pop("rows"), tensors)


def _reservoir(job: Job, tower: str) -> np.ndarray:
    """Features [n, D] fp32 of one tower in the order of the shards; n is at most the stated number."""
    files = [job.reservoir_path(ordinal) for ordinal in range(job.manifest.num_shards)]
    counts, width = [], 0
    for file in files:
        with safe_open(file, "numpy") as tensors:
            rows, columns = tensors.get_slice(tower).get_shape()
        counts.append(rows)
        width = max(width, columns)
    total = sum(counts)
    if not total:
        raise UserError("every sample failed: no image with a caption could be read; look at mcl-shards verify")
    kept = np.ones(total, bool)
    if total > job.settings.reservoir:
        kept[:] = False
        hashes = np.concatenate([load_file(file)["hashes"] for file in files])
        kept[smallest(hashes, job.settings.reservoir)] = True
    features = np.empty((int(kept.sum()), width), np.float32)
    filled = start = 0
    for file, rows in zip(files, counts, strict=True):
        chosen = kept[start : start + rows]
        start += rows
        if chosen.any():
            with safe_open(file, "numpy") as tensors:
                features[filled : filled + chosen.sum()] = tensors.get_tensor(tower)[chosen]
            filled += int(chosen.sum())
    return features


def _refuse_broken(part: ShardFeatures, shard: str, keys: list[str]) -> None:
    for tower, features in part.features.items():
        broken = np.flatnonzero(~np.isfinite(features).all(1) | ~features.any(1))
        if len(broken):
            raise UserError(
                f"the {tower} feature of sample {keys[part.rows[broken[0]]]!r} of shard {shard!r} (and of "
                f"{len(broken) - 1} "
                "more there) is NaN, infinite or zero; try --precision fp32, or train the stage again "
                "with a lower --lr"
            )


def _keep_features(job: Job, part: ShardFeatures, count: int) -> None:
    """fp16 features, row for row as the labels; zeros where a sample failed."""
    tensors = {}
    for tower, features in part.features.items():
        tensors[tower] = np.zeros((count, features.shape[1]), np.float16)
        tensors[tower][part.rows] = features
    with atomic_path(features_path(job.out, part.ordinal)) as temporary:
        save_file(tensors, temporary)
