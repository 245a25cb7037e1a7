"""Run units in processes, each as soon as what it needs is there; what stands already is not run again."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

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


def run_all(series: Sequence[Series], results: Path, *, processes: int, progress: bool) -> None:
    """Train and score all of `series`, `processes` models at a time, those of earlier series first."""
    unscored = [each for each in series if not scored(each, results)]
    done = {each: _trained(each, results) for each in unscored}
    waiting = [(each, job) for each in unscored for job in each.jobs if job.name not in done[each]]
    running: dict[Future, tuple[Series, Job]] = {}
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, context) as pool,
        tqdm(total=sum(job.shares for _, job in waiting), desc="shares of compute", disable=not progress) as bar,
    ):
        while waiting or running:
            ready = [(each, job) for each, job in waiting if set(job.needs) <= done[each]][: processes - len(running)]
            for each, job in ready:
                directory = each.directory(results)
                running[pool.submit(train_unit, directory, each.settings, each.seed, job)] = each, job
                waiting.remove((each, job))
            assert running, f"no model can be trained before these: {[job.name for _, job in waiting]}"
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                each, job = running.pop(future)
                done[each].add(job.name)
                bar.update(job.shares)
        list(pool.map(_score, unscored, [results] * len(unscored)))


def scored(series: Series, results: Path) -> bool:
    """Whether the seed is finished."""
    return (series.directory(results) / "scores.json").is_file()


def _trained(series: Series, results: Path) -> set[str]:
    directory = series.directory(results)
    return {job.name for job in series.jobs if (directory / job.name / "facts.json").is_file()}


def _score(series: Series, results: Path) -> None:
    score_unit(series.directory(results), series.settings, series.seed, series.arms)
