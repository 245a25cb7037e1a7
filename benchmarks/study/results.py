"""Scores as they stand on disk: one small file an arm, place and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study.models import Arm
from mcl_clip.artifacts import read_json


@dataclass(frozen=True)
class Run:
    """One arm's scores, as `score_unit` wrote them."""

    record: dict[str, Any]

    @property
    def where(self) -> tuple[str, int, str]:
        """(place, seed, the arm's key)."""
        return self.record["place"], self.record["seed"], self.record["key"]

    @property
    def seconds(self) -> float:
        """Of one core, to train all models of the arm."""
        return sum(fact["training_seconds"] for fact in self.record["facts"])


@dataclass(frozen=True)
class Results:
    """All runs there are."""

    runs: dict[tuple[str, int, str], Run]

    def scores(self, arm: Arm, place: str, measure: str = "pairs", fusion: str = "concat") -> dict[int, float]:
        """By seed; a measure or fusion that an arm does not have is left out."""
        return {
            seed: run.record["scores"][fusion][measure]
            for (of, seed, key), run in sorted(self.runs.items(), key=lambda item: item[0])
            if of == place and key == arm.key and measure in run.record["scores"].get(fusion, {})
        }

    @property
    def hours(self) -> float:
        """Of one core, to train all models of all arms, each counted once."""
        models = {
            (place, seed, fact["key"]): fact["training_seconds"]
            for (place, seed, _), run in self.runs.items()
            for fact in run.record["facts"]
        }
        return sum(models.values()) / 3600

    def differences(
        self, arm: Arm, other: Arm, place: str, measure: str = "pairs", fusion: str = "concat", less: str = ""
    ) -> dict[int, float]:
        """`arm` under `fusion` minus `other` under `less` (default the same) on the seeds that both have.

        A single model is its own fusion.
        """
        found = self.scores(arm, place, measure, _fusion(arm, fusion))
        others = self.scores(other, place, measure, _fusion(other, less or fusion))
        return {seed: found[seed] - others[seed] for seed in found if seed in others}


def every_run(results: Results, measures: Sequence[str]) -> list[list[str]]:
    """A row of a table for each: arm, place, seed, `measures` of the concatenated models in percent, seconds."""
    return [
        [
            f"{run.record['arm']} ({run.record['key']})",
            place,
            str(seed),
            *(f"{100 * run.record['scores']['concat'][measure]:.1f}" for measure in measures),
            f"{run.seconds:.0f}",
        ]
        for (place, seed, _), run in sorted(results.runs.items())
    ]


def read_results(directory: Path) -> Results:
    """Every run below `directory`."""
    runs = [Run(read_json(path)) for path in sorted(directory.rglob("*.json"))]
    return Results({run.where: run for run in runs})


def _fusion(arm: Arm, fusion: str) -> str:
    return fusion if len(arm.models) > 1 else "concat"
