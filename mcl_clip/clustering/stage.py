"""From a stage's model and the shards to its clusters: embed a reservoir, fit, label every sample, sum up."""

import json
import logging
import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from tqdm import tqdm

from mcl_clip.artifacts import atomic_path, read_json, sha256_file, write_json
from mcl_clip.clustering.clusters import Clusters, check_chain, hash_of, labels_path
from mcl_clip.clustering.encoder import TOWERS, default_precision, load_encoder
from mcl_clip.clustering.job import Job, Settings
from mcl_clip.clustering.passes import embed_reservoir, fit, label
from mcl_clip.clustering.summary import Summary
from mcl_clip.clustering.sums import read_clusters, read_run, runs, sum_run, write_run
from mcl_clip.errors import UserError
from mcl_clip.left_out import FIRST, line
from mcl_clip.models.stage_model import model_hash
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.pool import part_of
from mcl_clip.world import World, appears

log = logging.getLogger(__name__)


def cluster_stage(
    model_dir: str | Path,
    manifest: Manifest,
    out_dir: str | Path,
    *,
    k: int,
    text_k: int | None = None,
    on: str = "image",
    seed: int = 0,
    reservoir: int = 1_000_000,
    restarts: int = 3,
    batch_size: int = 256,
    precision: str | None = None,
    previous: Sequence[str | Path] = (),
    keep_features: bool = False,
    workers: int = 0,
    device: str = "cpu",
    world: World | None = None,
    progress: bool = False,
) -> Clusters:
    """Cluster a source manifest on the embeddings of the stage in `model_dir`, into `out_dir`; see `Settings`.

    `precision` is by default bf16 on CUDA and fp32 on a CPU, and `settings` of clusters.json says which.
    `previous` are the clusters directories of all earlier stages, in order. The ranks of a `world` all
    call this; no phase holds a collective. A finished `out_dir` of the same model,
    data and settings is reused, an unfinished one is resumed by shard, any other is refused. Raises
    `UserError`, on every rank alike.
    """
    if manifest.kind != "source":
        raise UserError(f"{manifest.directory} holds {manifest.kind}; cluster the source shards they were made from")
    if workers < 0:
        raise UserError(f"--workers is {workers}; give 0 or more decoding processes")
    if Path(out_dir).exists() and not Path(out_dir).is_dir():
        raise UserError(f"{out_dir} is a file; give a directory to write the clusters into")
    precision = precision or default_precision(device)
    settings = Settings(
        k=k,
        text_k=text_k or 0,
        on=on,
        seed=seed,
        reservoir=reservoir,
        restarts=restarts,
        batch_size=batch_size,
        precision=precision,
    )
    stages = [Clusters.load(directory) for directory in previous]
    check_chain(stages)
    for clusters in stages:
        clusters.check_made_from(manifest.hash)
    job = Job(
        out=Path(out_dir),
        manifest=manifest,
        settings=settings,
        model_hash=model_hash(model_dir),
        previous=stages,
        load_encoder=partial(load_encoder, model_dir, TOWERS[on], precision, device),
        keep_features=keep_features,
        workers=workers,
        world=world or World(),
        progress=progress,
    )
    job.together(claim, alone=True)
    if not job.world.share((job.out / "clusters.json").exists):
        fitted = job.world.share(job.centroids_path.exists)
        if not fitted or job.limit is None:
            job.together(embed_reservoir)
        if not fitted:
            job.together(fit, alone=True)
        job.together(label)
        job.together(add_up)
        job.together(commit, alone=True)
    clusters = Clusters.load(appears(job.out / "clusters.json", job.world).parent)
    failed = clusters.info["failed"]
    if job.world.is_first and failed["count"]:
        first = ["/".join(sample) for sample in failed["first"]]
        reason = "without image or caption, or that do not decode"
        told = line({reason: {"count": failed["count"], "first": first[:FIRST]}})
        log.warning("%s: %s samples; without a cluster: %s", job.out, f"{clusters.info['samples']:,}", told)
    return clusters


def claim(job: Job) -> None:
    """Make the directory this job's; refuse what another model, data set or setting left there, saying
    which.
    """
    finished = (job.out / "clusters.json").exists()
    if not finished and not (job.out / "identity.json").exists():
        if job.out.exists() and any(job.out.iterdir()):
            raise UserError(f"{job.out} is not empty and holds no clusters; give another directory")
        write_json(job.out / "identity.json", job.identity)
        return
    difference = _difference(read_json(job.out / ("clusters.json" if finished else "identity.json")), job.identity)
    if difference:
        raise UserError(
            f"{job.out} holds {'' if finished else 'unfinished '}clusters of another {difference}; delete "
            f"it, or give "
            "another directory"
        )
    if finished:
        _clean_up(job)
        if job.keep_features and not (job.out / "features").exists():
            raise UserError(f"{job.out} was made without --mcl-keep-features; delete it, or do without them")


def add_up(job: Job) -> None:
    """Each rank, its runs of shards: what their labels come to."""
    names, own = job.manifest.shard_names, list(enumerate(runs(job.manifest.num_shards)))
    mine = part_of(own, job.world.rank, job.world.world_size)
    ks = [*(clusters.k for clusters in job.previous), _k(job)]
    bar = tqdm(mine, "sum up", unit="run", disable=not (job.progress and job.world.is_first and mine))
    for run, shards in bar:
        if job.sums_path(run).exists():
            continue
        own_names = names[shards.start : shards.stop]
        labels = read_run([appears(labels_path(job.out, shard), job.world) for shard in shards], own_names)
        previous = [read_clusters(clusters, own_names) for clusters in job.previous]
        apart = [job.manifest.rows_apart(shard) for shard in shards]
        write_run(job.sums_path(run), *sum_run(labels, previous, apart, ks, _span(job), job.settings.seed))


def commit(job: Job) -> None:
    """Rank 0: add the sums up, and write what makes the directory finished."""
    with atomic_path(job.out / "failed.jsonl") as temporary, open(temporary, "w") as failed_file:
        summary = Summary(_k(job), _span(job), [clusters.k for clusters in job.previous], failed_file)
        for run in range(len(runs(job.manifest.num_shards))):
            summary.add(appears(job.sums_path(run), job.world))
    names = pa.array(job.manifest.shard_names, pa.string())
    table = {"shard": names, "samples": np.concatenate(summary.samples), "failed": np.concatenate(summary.failed)}
    with atomic_path(job.out / "shards.parquet") as temporary:
        pq.write_table(pa.table(table), temporary)
    with safe_open(job.centroids_path, "numpy") as file:
        report = json.loads(file.metadata()["fit"])
    info = {
        **job.identity,
        "k": _k(job),
        "centroids_hash": sha256_file(job.centroids_path),
        "labels_hash": summary.digest.hexdigest(),
        "fit": report,
        **summary.result(),
    }
    write_json(job.out / "clusters.json", {"hash": hash_of(info), **info})
    _clean_up(job)


def _k(job: Job) -> int:
    return math.prod(job.settings.clusters_by_tower.values())


def _span(job: Job) -> float:
    """The largest possible distance of a sample to its centroid."""
    return 2 * math.sqrt(len(job.settings.clusters_by_tower))


def _clean_up(job: Job) -> None:
    (job.out / "identity.json").unlink(missing_ok=True)
    shutil.rmtree(job.out / "reservoir", ignore_errors=True)
    shutil.rmtree(job.out / "sums", ignore_errors=True)


def _difference(found: Any, wanted: dict[str, Any]) -> str | None:
    """The first thing in which two identities differ, in the user's words; None when they agree."""
    if not isinstance(found, dict):
        return "format"
    words = {"data_hash": "--train-data", "model_hash": "model", "previous": "chain of earlier stages"}
    for name, value in wanted.items():
        if found.get(name) == value:
            continue
        if name != "settings":
            return words.get(name, "format version")
        before = found.get(name) or {}
        changed = [key for key in value if before.get(key) != value[key]]
        return ", ".join(f"{key} ({before.get(key)}, not {value[key]})" for key in changed)
    return None
