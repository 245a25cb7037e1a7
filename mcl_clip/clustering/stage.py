"""Between two stages: embed every sample with the finished stage, fit k-means, label every sample."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mcl_clip.artifacts import atomic_path, read_json, sha256_file, write_json
from mcl_clip.clustering.clusters import FORMAT, Clusters, hash_of, labels_path, read_labels
from mcl_clip.clustering.features import TOWERS, Encoder
from mcl_clip.clustering.job import Job, Settings
from mcl_clip.clustering.passes import embed_reservoir, fit, label
from mcl_clip.clustering.summary import Summary
from mcl_clip.errors import UserError
from mcl_clip.loading.augment import EvalTransform, eval_transform
from mcl_clip.models.stage_model import load_stage_model, model_hash
from mcl_clip.shards.manifest import Manifest


def cluster_stage(
    model_dir: str | os.PathLike,
    manifest: Manifest,
    out_dir: str | os.PathLike,
    *,
    k: int,
    text_k: int | None = None,
    on: str = "image",
    seed: int = 0,
    reservoir: int = 1_000_000,
    restarts: int = 3,
    batch_size: int = 256,
    precision: str = "fp32",
    previous: Sequence[str | os.PathLike] = (),
    keep_features: bool = False,
    workers: int = 0,
    device: str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> Clusters:
    """Cluster the samples of a source manifest by a stage's embeddings into `out_dir`; call it on every rank.

    previous: the clusters directories of all earlier stages, in order. `barrier` may be long in coming: it must not time
    out. A finished directory is reused, an unfinished one gone on with by shard, one of another model, data or setting
    refused. Raises `UserError`, on every rank.
    """
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
    if manifest.kind != "source":
        raise UserError(f"{manifest.directory} holds {manifest.kind}; clusters are made from the source shards")
    job = Job(
        out=Path(out_dir),
        manifest=manifest,
        settings=settings,
        model_hash=model_hash(model_dir),
        previous=[Clusters.load(directory) for directory in previous],
        load_encoder=partial(load_encoder, model_dir, on, precision, device),
        keep_features=keep_features,
        workers=workers,
        rank=rank,
        world_size=world_size,
        barrier=barrier,
        progress=progress,
    )
    if is_finished(job):
        barrier()
        return Clusters.load(job.out)
    job.together(claim, alone=True)
    job.together(embed_reservoir)
    job.together(fit, alone=True)
    job.together(label)
    job.together(commit, alone=True)
    return Clusters.load(job.out)


def is_finished(job: Job) -> bool:
    """Whether this job's clusters stand there; `UserError` when those of another job do."""
    if not (job.out / "clusters.json").exists():
        return False
    found = Clusters.load(job.out)
    _refuse_other(job, found.info)
    return not job.keep_features or (job.out / "features").is_dir()


def claim(job: Job) -> None:
    """Write down whose unfinished files these are; `UserError` when they are another job's."""
    path = job.out / "job.json"
    if path.exists():
        _refuse_other(job, read_json(path))
    else:
        write_json(path, job.identity)


def commit(job: Job) -> None:
    """One pass over the label files, then clusters.json; what only the passes needed is removed."""
    spans = len(job.settings.clusters_by_tower) ** 0.5
    labelled = 1
    for count in job.settings.clusters_by_tower.values():
        labelled *= count
    names = job.manifest.shard_names
    counts: list[tuple[int, int]] = []
    with atomic_path(job.out / "failed.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as failed:
        summary = Summary(
            labelled, 2.0 * spans, [clusters.k for clusters in job.previous], job.settings.seed, failed
        )
        for ordinal, name in enumerate(names):
            rows = read_labels(labels_path(job.out, ordinal), name)
            counts.append((len(rows.keys), int((rows.cluster < 0).sum())))
            summary.add(name, rows, [clusters.labels_of(name) for clusters in job.previous])
    table = {
        "shard": pa.array(names, pa.string()),
        "samples": pa.array([samples for samples, _ in counts], pa.int64()),
        "failed": pa.array([lost for _, lost in counts], pa.int64()),
    }
    with atomic_path(job.out / "shards.parquet") as temporary:
        pq.write_table(pa.table(table), temporary)
    info = {
        **job.identity,
        "k": labelled,
        "centroids_hash": sha256_file(job.centroids_path),
        "labels_hash": summary.digest.hexdigest(),
        "fit": _fit_report(job.centroids_path),
        **summary.result(),
    }
    write_json(job.out / "clusters.json", info | {"hash": hash_of(info)})
    shutil.rmtree(job.out / "reservoir", ignore_errors=True)
    (job.out / "job.json").unlink(missing_ok=True)


def load_encoder(model_dir: str | os.PathLike, on: str, precision: str, device: str) -> Encoder:
    """The stage's model and open_clip's evaluation transform, on uint8 with the normalisation on the device."""
    model, _, tokenizer = load_stage_model(model_dir, device)
    transform = eval_transform(model.visual.preprocess_cfg)
    mean, std = (
        torch.tensor(values, device=device).mul(255)[:, None, None] for values in (transform.mean, transform.std)
    )
    return Encoder(
        model=model,
        decode=partial(_decode, transform),
        prepare=partial(_normalise, mean, std),
        tokenize=tokenizer,
        towers=TOWERS[on],
        precision=precision,
    )


def _decode(transform: EvalTransform, data: bytes) -> torch.Tensor:
    return transform(data)[0]


def _normalise(mean: torch.Tensor, std: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return (images.float() - mean) / std


def _fit_report(centroids: Path) -> dict:
    from safetensors import safe_open

    with safe_open(centroids, "numpy") as file:
        return json.loads(file.metadata()["fit"])


def _refuse_other(job: Job, found: dict) -> None:
    wanted = job.identity
    differing = [name for name in (*FORMAT, "model_hash", "data_hash", "previous", "settings") if found.get(name) != wanted[name]]
    if differing:
        raise UserError(
            f"{job.out} holds the clusters of another run (different {', '.join(differing)}); "
            "delete it, or choose another --name"
        )
