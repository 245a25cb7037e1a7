"""Units of work: one trained model or one seed's scores, each a directory or file that is whole or absent."""

import functools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.study.training import train
from benchmarks.suppression.measures import embeddings, score
from benchmarks.suppression.models import Arm, Job
from benchmarks.suppression.settings import Settings
from benchmarks.suppression.trainer import cluster, labels_alike, new_model
from benchmarks.suppression.world import World, make_world
from mcl_clip.artifacts import atomic_directory, read_json, write_json
from mcl_clip.models.stage_model import storable_state

FUSIONS = ("concat", "mean-cosine")


@functools.lru_cache(maxsize=1)
def world_of(settings: Settings, seed: int) -> World:
    """The world in this process."""
    return make_world(settings, seed)


def seed_directory(results: Path, settings: Settings, seed: int) -> Path:
    """Where everything of one seed under one setting stands."""
    return results / settings.tag / f"seed_{seed}"


def train_unit(directory: Path, settings: Settings, seed: int, job: Job) -> None:
    """Train one model; writes weights, embeddings, clusters of the training set, and what it cost."""
    torch.set_num_threads(1)
    world = world_of(settings, seed)
    model = new_model(settings, seed, job.draw)
    if job.start:
        model.load_state_dict(load_file(directory / job.start / "model.safetensors"))
    started = time.process_time()
    # True labels are many and small; pooled ones would have negatives that differ in other features too.
    recipe = settings.recipe(shares=job.shares, min_segment=2 if job.alike else None)
    model, loss = train(
        model,
        lambda rows, epoch: world.train.images[rows],
        world.captions,
        labels_of(directory, world, job),
        recipe,
        seed=seed,
        draw=job.draw,
    )
    trained = time.process_time()
    clusters = cluster(model, world, settings, seed)
    clustered = time.process_time()
    with atomic_directory(directory / job.name) as temporary:
        save_file(storable_state(model), temporary / "model.safetensors")
        save_file(
            {name: each.contiguous() for name, each in embeddings(model, world).items()},
            temporary / "embeddings.safetensors",
        )
        np.save(temporary / "clusters.npy", clusters, allow_pickle=False)
        write_json(
            temporary / "facts.json",
            {
                "loss": loss,
                "training_seconds": trained - started,
                "clustering_seconds": clustered - trained,
                "negatives_alike": job.alike,
            },
        )


def labels_of(directory: Path, world: World, job: Job) -> list[str]:
    """Pseudo-labels of the training set for a model, as `mcl_clip` writes them: `3/7`."""
    if job.alike:
        return labels_alike(world.train.values, job.alike)
    clusters = [np.load(directory / name / "clusters.npy").tolist() for name in job.clustered]
    return (
        ["/".join(map(str, path)) for path in zip(*clusters, strict=True)] if clusters else [""] * len(world.captions)
    )


def score_unit(directory: Path, settings: Settings, seed: int, arms: Sequence[Arm]) -> None:
    """Score every arm of a seed under both fusions, then delete the weights, which nothing needs any more."""
    torch.set_num_threads(1)
    world = world_of(settings, seed)
    names = dict.fromkeys(name for arm in arms for name in arm.models)
    parts = {name: load_file(directory / name / "embeddings.safetensors") for name in names}
    found = {
        fusion: {arm.name: score([parts[name] for name in arm.models], world, fusion) for arm in arms}
        for fusion in FUSIONS
    }
    facts = {name: read_json(directory / name / "facts.json") for name in names}
    write_json(
        directory / "scores.json",
        {"settings": settings.record(), "seed": seed, "scores": found, "models": facts},
    )
    for weights in directory.glob("*/model.safetensors"):
        weights.unlink()
