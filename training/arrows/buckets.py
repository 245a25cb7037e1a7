"""Clusters of all stages before, or labels of the user's -> the buckets that a stage is trained on."""

from mcl_clip.clustering.pseudo_labels import PseudoLabels, UserLabels
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.labels import ShardLabels
from mcl_clip.shards.manifest import Manifest
from training.arrows.job import Job
from training.reporting import log


def bucket(job: Job, stage: int) -> Manifest:
    """The finished buckets of a stage after stage 0."""
    data, out = job.recipe.data, job.directory.buckets(stage)
    path = job.recipe.stages[stage].labels
    clusters = [job.directory.clusters(earlier) for earlier in range(stage)]
    labels: ShardLabels = UserLabels(path) if path else PseudoLabels(clusters)
    if job.ranks.is_first and not (out / "manifest.json").exists():
        log.info(f"stage {stage}: bucketing")
    return write_buckets(
        job.source,
        labels,
        out,
        index_only=data.index_only,
        resize=data.smaller,
        shard_size=data.shard_size,
        workers=max(data.workers, 1),
        world=job.ranks,
        progress=job.ranks.is_first,
    )
