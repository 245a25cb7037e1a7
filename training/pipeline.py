"""All arrows of a run, in order; each is skipped when what it makes stands finished and fresh on disk.

source index -> stage 0 -> clusters -> pseudo-labels -> buckets -> stage 1 -> ... -> fused model
"""

import contextlib
from functools import partial

from mcl_clip.errors import UserError
from mcl_clip.world import appears
from training.arithmetic import fast_arithmetic
from training.arrows.buckets import bucket
from training.arrows.clusters import cluster
from training.arrows.fused import fuse_stages
from training.arrows.job import Job
from training.arrows.model import train
from training.arrows.source import open_or_index, packed
from training.checks import check_data
from training.preemption import Preemption
from training.ranks import Ranks
from training.recipe import Recipe
from training.recipe_file import to_plain
from training.reporting import Trackers, logging_to
from training.run_directory import RunDirectory, claim, commit, held, release, sweep
from training.validation import Validation


def run(recipe: Recipe, ranks: Ranks, preemption: Preemption) -> None:
    """Train every stage of the recipe and fuse them, into `recipe.run_directory`; call it on every rank.

    Raises `UserError`, `Preempted` and `NonFiniteLoss`; whatever is raised, the same call goes on from there.
    """
    directory = RunDirectory(recipe.run_directory)
    created = ranks.on_first(lambda: claim(directory, recipe))
    appears(directory.root)
    try:
        with held(directory) if ranks.is_first else contextlib.nullcontext():
            ranks.on_first(lambda: sweep(directory))
            with logging_to(recipe, ranks), fast_arithmetic(ranks.device):
                _run(recipe, directory, ranks, preemption)
    except UserError:
        release(directory, bool(created))
        raise


def _run(recipe: Recipe, directory: RunDirectory, ranks: Ranks, preemption: Preemption) -> None:
    job = _begin(recipe, directory, ranks, preemption)
    data = job.source
    for stage in range(len(recipe.stages)):
        if stage:
            with preemption.excusing_workers():
                cluster(job, stage - 1)
                data = bucket(job, stage)
        train(job, stage, data)
    if recipe.num_stages:
        fuse_stages(job)
    job.trackers.close()


def _begin(recipe: Recipe, directory: RunDirectory, ranks: Ranks, preemption: Preemption) -> Job:
    """Index the data, refuse what cannot be trained with, and make the directory this recipe's."""
    data, held_out = recipe.data, None
    index = partial(
        open_or_index,
        ranks=ranks,
        caption_key=data.caption_key,
        skip_broken=data.skip_broken,
        workers=data.workers,
    )
    with preemption.excusing_workers():
        source = index(packed(data.train_data, directory.source, ranks, data), directory.source)
        if recipe.reporting.val_data:
            tars = packed(recipe.reporting.val_data, directory.validation, ranks, data, "--val-data")
            held_out = index(tars, directory.validation, flag="--val-data")
    check_data(recipe, source)
    validation = Validation(recipe, held_out, ranks.device)
    trackers = Trackers(recipe, to_plain(recipe), silent=not ranks.is_first)
    ranks.on_first(lambda: commit(directory, recipe))
    return Job(recipe, directory, source, ranks, preemption, trackers, validation)
