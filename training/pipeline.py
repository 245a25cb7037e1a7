"""All arrows of a run, in order; each is skipped when what it makes stands finished and fresh on disk.

source index -> stage 0 -> clusters -> pseudo-labels -> buckets -> stage 1 -> ... -> fused model
"""

import contextlib

from mcl_clip.errors import UserError
from mcl_clip.world import appears
from training.arithmetic import fast_arithmetic
from training.arrows.begin import begin
from training.arrows.buckets import bucket
from training.arrows.clusters import cluster
from training.arrows.fused import fuse_stages
from training.arrows.job import Job
from training.arrows.model import train
from training.arrows.student import data_of, student_arguments
from training.preemption import Preemption
from training.ranks import Ranks
from training.recipe import Recipe
from training.recipe_file import to_plain
from training.reporting import logging_to
from training.resolve import parse_recipe, resolve
from training.run_directory import RunDirectory, claim, held, release, sweep


def run(recipe: Recipe, ranks: Ranks, preemption: Preemption) -> None:
    """Train every stage of the recipe and fuse them, into `recipe.run_directory`; call it on every rank.

    Raises `UserError`, `Preempted` and `NonFiniteLoss`; whatever is raised, the same call goes on from there.
    """
    directory = RunDirectory(recipe.run_directory)
    before = ranks.on_first(lambda: claim(directory, recipe))
    appears(directory.root, ranks)
    try:
        with held(directory) if ranks.is_first else contextlib.nullcontext():
            ranks.on_first(lambda: sweep(directory))
            with logging_to(recipe, ranks), fast_arithmetic(ranks.device):
                _run(recipe, directory, ranks, preemption)
    except UserError:
        if before is not None:  # never where another rank is the first
            release(directory, before)
        raise


def _run(recipe: Recipe, directory: RunDirectory, ranks: Ranks, preemption: Preemption) -> None:
    job = begin(recipe, directory, ranks, preemption)
    data = data_of(job, job.source)
    for stage in range(len(recipe.stages)):
        if stage:
            with preemption.excusing_workers():
                cluster(job, stage - 1)
                data = bucket(job, stage)
        train(job, stage, data)
    if recipe.num_stages:
        fuse_stages(job)
    job.trackers.close()
    if recipe.distill.distill:
        _teach(job)


def _teach(job: Job) -> None:
    """The student of the fused model, in a run of its own below this one."""
    output, ranks = job.directory.root / "student", job.ranks
    arguments = ranks.share(lambda: student_arguments(to_plain(job.recipe), job.directory, output))
    run(resolve(*parse_recipe(arguments), name=output.name, world_size=ranks.world_size), ranks, job.preemption)
