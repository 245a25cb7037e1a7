"""Stage 0 as it is kept, fused model -> what --val-data and --imagenet-val say of them, beside the trained stages."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.arrows.job import Job
from training.build import BuiltModel
from training.reporting import MetricsFile, log


def score_once(job: Job, name: str, path: Path, mark: Mapping[str, Any], build: Callable[[], BuiltModel]) -> None:
    """Write the scores of a finished model to `path`, on the first rank, unless a row with `mark` stands there."""
    if not job.validation.is_due(0, 0):
        return

    def score() -> None:
        file = MetricsFile(path, keep=lambda row: mark.items() <= row.items())
        if file.rows():
            return
        row = job.validation.run(build(), 0, 0)
        log.info(f"{name}  " + "  ".join(f"{score} {value:.4g}" for score, value in row.items()))
        job.trackers.begin(name, 0)
        job.trackers.write(row, 0, prefix="val/")
        file.write({**mark, **row})

    with job.preemption.excusing_workers():
        job.ranks.on_first(score)
