"""Flags and tars -> a run that may begin: data indexed, mistakes refused, the directory this recipe's."""

from functools import partial
from pathlib import Path

from mcl_clip.errors import UserError
from mcl_clip.shards.apart import Apart
from mcl_clip.shards.captions import NO_CAPTIONS
from mcl_clip.shards.manifest import Manifest
from training.arrows.job import Job
from training.arrows.source import open_or_index, packed
from training.checks import check_data, check_fit
from training.objectives import objective_of
from training.preemption import Preemption
from training.ranks import Ranks
from training.recipe import Recipe
from training.recipe_file import to_plain
from training.reporting import Trackers
from training.run_directory import RunDirectory, commit
from training.validation import Validation


def begin(recipe: Recipe, directory: RunDirectory, ranks: Ranks, preemption: Preemption) -> Job:
    """Index the data, refuse what cannot be trained with, and make the directory this recipe's."""
    data, held_out = recipe.data, None
    reads_captions = objective_of(recipe).reads_captions
    index = partial(
        open_or_index,
        ranks=ranks,
        caption_key=data.caption_key if reads_captions else NO_CAPTIONS,
        skip_broken=data.skip_broken,
        workers=data.workers,
    )
    with preemption.excusing_workers():
        tars = packed(data.train_data, directory.source, ranks, data)
        apart = Apart(share=data.fit_share, key=data.fit_group, seed=recipe.seed) if data.fit_share else None
        source = index(tars, directory.source, factors=data.train_data_upsampling_factors, apart=apart)
        if recipe.reporting.val_data:
            tars = packed(recipe.reporting.val_data, directory.validation, ranks, data, "--val-data")
            held_out = index(tars, directory.validation, flag="--val-data")
    check_data(recipe, source, reads_captions)
    to_fit = source if source.apart else held_out
    if recipe.fusion == "fitted":
        ranks.share(lambda: _check_fit(recipe, source, to_fit, directory))
    validation = Validation(recipe, held_out, ranks.device)
    trackers = Trackers(recipe, to_plain(recipe), silent=not ranks.is_first)
    ranks.on_first(lambda: commit(directory, recipe))
    return Job(recipe, directory, source, ranks, preemption, trackers, validation, to_fit)


def _check_fit(recipe: Recipe, source: Manifest, to_fit: Manifest | None, directory: RunDirectory) -> None:
    """As `check_fit`; an index of ours that sets too few apart goes, for another share is another index."""
    try:
        check_fit(recipe, source, to_fit)
    except UserError:
        if source.apart and Path(source.directory) == directory.source:
            (directory.source / "manifest.json").unlink()
        raise
