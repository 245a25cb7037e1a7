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
    """One rank's view of a run; `source` is the index of --train-data, `held_out` that of --val-data, if any."""

    recipe: Recipe
    directory: RunDirectory
    source: Manifest
    ranks: Ranks
    preemption: Preemption
    trackers: Trackers
    validation: Validation
    held_out: Manifest | None = None
