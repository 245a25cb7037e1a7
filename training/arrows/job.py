"""What every arrow of a run works with."""

from dataclasses import dataclass

from mcl_clip.shards.manifest import Manifest
from training.preemption import Preemption
from training.ranks import Ranks
from training.recipe import Recipe
from training.reporting import Trackers
from training.run_directory import RunDirectory
from training.validation import Validation


@dataclass(frozen=True)
class Job:
    """One rank's view of a run; `source` is the index of --train-data.

    `to_fit` is what a fitted fusion is fitted on: the source, of which only what it sets apart, else --val-data.
    """

    recipe: Recipe
    directory: RunDirectory
    source: Manifest
    ranks: Ranks
    preemption: Preemption
    trackers: Trackers
    validation: Validation
    to_fit: Manifest | None = None
