"""What is trained: every model of every arm, what it starts from, and whose clusters choose its negatives.

A model that two arms share (stage 0; the first further stage from the base is also the first from the
previous stage) is trained once.
"""

from dataclasses import dataclass
from itertools import pairwise

from benchmarks.suppression.settings import Settings
from demo.features import NAMES

BASE = "stage_0"


@dataclass(frozen=True)
class Job:
    """One model to train, for `shares` shares of the compute.

    start: the model whose weights it starts from, None for random ones (drawn by `draw`). clustered: the
    models whose clusters make the pseudo-labels, in order. alike: instead of clusters, labels from the true
    values of all features but this one.
    """

    name: str
    start: str | None = None
    draw: int = 0
    clustered: tuple[str, ...] = ()
    alike: str | None = None
    shares: int = 1

    @property
    def needs(self) -> tuple[str, ...]:
        """Models that must be trained before."""
        return tuple(dict.fromkeys(([self.start] if self.start else []) + list(self.clustered)))


@dataclass(frozen=True)
class Arm:
    """Models that are fused by concatenation and scored as one."""

    name: str
    models: tuple[str, ...]


def stage_names(way: str, stages: int) -> list[str]:
    """Names of stages 1 to S of MCL from "base", "previous" or "scratch", or of "snapshot"."""
    names = [f"{way}_{stage}" for stage in range(1, stages + 1)]
    return ["base_1", *names[1:]] if way == "previous" else names


def mcl_jobs(settings: Settings, way: str) -> list[Job]:
    """Stages 1 to S of MCL that start from the base, from the previous stage, or from random weights."""
    jobs: list[Job] = []
    chain = [BASE]
    for stage, name in enumerate(stage_names(way, settings.stages), 1):
        start = {"base": BASE, "previous": chain[-1], "scratch": None}[way]
        labels = tuple(chain[-1:] if settings.last_labels_only else chain)
        jobs.append(Job(name, start, draw=20 + stage, clustered=labels))
        chain.append(name)
    return jobs


def study_jobs(settings: Settings) -> list[Job]:
    """All models of the study, each after what it needs."""
    stages = range(1, settings.stages + 1)
    jobs = [Job(BASE), Job("long", shares=settings.stages + 1)]
    jobs += [Job(f"independent_{stage}", draw=stage) for stage in stages]
    chain = [BASE, *stage_names("snapshot", settings.stages)]
    jobs += [Job(name, before, draw=10 + stage) for stage, (before, name) in enumerate(pairwise(chain), 1)]
    jobs += [Job(f"restart_{stage}", BASE, draw=10 + stage) for stage in stages if stage > 1]
    jobs += mcl_jobs(settings, "base")
    jobs += mcl_jobs(settings, "previous")[1:]
    jobs += mcl_jobs(settings, "scratch")
    jobs += [Job(f"oracle_{name}", BASE, draw=30 + number, alike=name) for number, name in enumerate(NAMES)]
    return jobs


def study_arms(settings: Settings) -> list[Arm]:
    """The arms, in the order of the report."""
    count = settings.stages
    independent = tuple(f"independent_{stage}" for stage in range(1, count + 1))
    base, scratch = (tuple(stage_names(way, count)) for way in ("base", "scratch"))
    return [
        Arm("stage 0", (BASE,)),
        Arm("one long run", ("long",)),
        Arm("ensemble", (BASE, *independent)),
        Arm("snapshots, from the previous", (BASE, *stage_names("snapshot", count))),
        Arm(
            "snapshots, from the base",
            (BASE, "snapshot_1", *(f"restart_{stage}" for stage in range(2, count + 1))),
        ),
        Arm("MCL from the base", (BASE, *base)),
        Arm("MCL from the previous stage", (BASE, *stage_names("previous", count))),
        Arm("MCL from scratch", (BASE, *scratch)),
        Arm("oracle, all features", (BASE, *(f"oracle_{name}" for name in NAMES))),
        *(Arm(f"oracle, {name} alone", (f"oracle_{name}",)) for name in NAMES),
    ]


def ablation_jobs(settings: Settings) -> list[Job]:
    """Stage 0 and MCL from the previous stage under one changed setting."""
    return [Job(BASE), *mcl_jobs(settings, "previous")]
