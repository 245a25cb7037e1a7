"""The units of work of a series, for `benchmarks.study.schedule`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study.schedule import Unit
from benchmarks.suppression.models import Arm, Job
from benchmarks.suppression.settings import Settings
from benchmarks.suppression.units import score_unit, seed_directory, train_unit


@dataclass(frozen=True)
class Series:
    """All models of one seed under one setting, and the arms they are scored as."""

    settings: Settings
    seed: int
    jobs: tuple[Job, ...]
    arms: tuple[Arm, ...]

    def directory(self, results: Path) -> Path:
        """Of this seed."""
        return seed_directory(results, self.settings, self.seed)


def units_of(series: Series, results: Path) -> Iterator[Unit]:
    """One a model, then the scores; none when the seed is scored."""
    directory = series.directory(results)
    scores = directory / "scores.json"
    if scores.is_file():
        return
    facts = {job.name: directory / job.name / "facts.json" for job in series.jobs}
    for job in series.jobs:
        arguments = (directory, series.settings, series.seed, job)
        yield Unit(facts[job.name], train_unit, arguments, tuple(facts[name] for name in job.needs), job.shares)
    yield Unit(
        scores, score_unit, (directory, series.settings, series.seed, series.arms), tuple(facts.values()), weight=0
    )
