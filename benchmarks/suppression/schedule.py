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
    """Train and score all of `series`, one after the other, `processes` units at a time."""
    open_series = [each for each in series if not scored(each, results)]
    total = sum(job.shares for each in open_series for job in each.jobs)
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, context) as pool,
        tqdm(total=total, desc="shares of compute", disable=not progress) as bar,
    ):
        for each in open_series:
            _train_all(each, each.directory(results), pool, processes, bar)
            pool.submit(score_unit, each.directory(results), each.settings, each.seed, each.arms).result()


def scored(series: Series, results: Path) -> bool:
    """Whether the seed is finished."""
    return (series.directory(results) / "scores.json").is_file()


def _train_all(series: Series, directory: Path, pool: ProcessPoolExecutor, processes: int, bar: tqdm) -> None:
    done = {job.name for job in series.jobs if (directory / job.name / "facts.json").is_file()}
    waiting = [job for job in series.jobs if job.name not in done]
    bar.update(sum(job.shares for job in series.jobs if job.name in done))
    running: dict[Future, Job] = {}
    while waiting or running:
        ready = [job for job in waiting if set(job.needs) <= done][: processes - len(running)]
        for job in ready:
            running[pool.submit(train_unit, directory, series.settings, series.seed, job)] = job
            waiting.remove(job)
        assert running, f"no model can be trained before these: {[job.name for job in waiting]}"
        finished, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
            job = running.pop(future)
            done.add(job.name)
            bar.update(job.shares)
