"""Stage model -> clusters: the recipe's k-means of one stage's embeddings."""

import os
import shutil

import torch

from mcl_clip.clustering.encoder import AUTOCAST, default_precision
from mcl_clip.clustering.stage import cluster_stage
from mcl_clip.errors import UserError
from training.arithmetic import pixel_dtype
from training.arrows.job import Job
from training.reporting import log


def embedding_precision(training: str, device: torch.device) -> str:
    """In what a model is embedded that was trained in one of open_clip's precisions: the same bf16 or fp16, and for
    fp32 the device's default."""
    dtype = pixel_dtype(training, device)
    return next((name for name, own in AUTOCAST.items() if own == dtype != torch.float32), default_precision(device))


def cluster(job: Job, stage: int) -> None:
    """Cluster the source on the embeddings of a finished stage, unless all later stages have labels of the user's."""
    recipe, out = job.recipe, job.directory.clusters(stage)
    if all(later.labels for later in recipe.stages[stage + 1 :]):
        return
    if job.ranks.is_first and not (out / "clusters.json").exists():
        log.info(f"stage {stage}: clustering")
    try:
        cluster_stage(
            job.directory.model(stage),
            job.source,
            out,
            k=recipe.stages[stage].clusters,
            text_k=recipe.clustering.text_clusters,
            on=recipe.clustering.cluster_on,
            seed=recipe.seed,
            reservoir=recipe.clustering.reservoir,
            precision=embedding_precision(recipe.optimization.precision, job.ranks.device),
            previous=[job.directory.clusters(earlier) for earlier in range(stage)],
            keep_features=recipe.clustering.keep_features,
            workers=recipe.data.workers,
            device=str(job.ranks.device),
            world=job.ranks,
            progress=job.ranks.is_first,
        )
    except UserError:
        # Nothing is embedded yet: the same command with other settings shall find a clean place.
        if job.ranks.is_first and out.is_dir() and os.listdir(out) == ["identity.json"]:
            shutil.rmtree(out, ignore_errors=True)
        raise
