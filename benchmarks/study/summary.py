"""What a page asks of the results: values over a study's seeds, and differences paired by seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.study.models import Arm
from benchmarks.study.results import Results
from benchmarks.study.settings import BASE, CONTROLS, MCL
from benchmarks.study.tables import table
from benchmarks.study.units import CONCAT


@dataclass(frozen=True)
class Summary:
    """Of `arms` at `place` on `seeds`; results have the primary `measure` of every feature, and its mean."""

    place: str
    seeds: Sequence[int]
    arms: Mapping[str, Arm]
    measure: str
    features: Sequence[str]

    def values_of(self, results: Results, arm: Arm, measure: str, fusion: str = CONCAT) -> list[float]:
        """One fraction a seed of the study; a single model is its own fusion."""
        found = results.scores(arm, self.place, measure, fusion if len(arm.models) > 1 else CONCAT)
        return [value for seed, value in found.items() if seed in self.seeds]

    def differences(
        self, results: Results, arm: Arm, other: Arm, measure: str, fusion: str = CONCAT, less: str = ""
    ) -> list[float]:
        """As of `Results.differences`, on the seeds of the study."""
        found = results.differences(arm, other, self.place, measure, fusion, less)
        return [value for seed, value in found.items() if seed in self.seeds]

    def suppressed(self, results: Results) -> str:
        """The feature of which stage 0 knows least, over all seeds."""
        base = self.arms[BASE]
        return min(self.features, key=lambda name: np.mean(self.values_of(results, base, f"{self.measure} {name}")))

    def finished(self, results: Results) -> bool:
        """Whether two seeds or more have all arms of the primary comparisons, so that there are intervals."""
        primary = (self.arms[name] for name in (BASE, *CONTROLS, MCL))
        return min(len(self.values_of(results, arm, f"{self.measure} mean")) for arm in primary) > 1

    def arms_of(self, results: Results) -> dict[str, Arm]:
        """Arms that have run on seeds of the study."""
        return {name: arm for name, arm in self.arms.items() if self.values_of(results, arm, f"{self.measure} mean")}

    def means(self, results: Results, measures: Iterable[str], hidden: str) -> dict[str, float]:
        """Means over seeds by `ARM | MEASURE | FEATURE`, of the mean of all features and of `hidden`."""
        return {
            f"{name} | {measure} | {feature}": round(
                float(np.mean(self.values_of(results, arm, f"{measure} {feature}"))), 4
            )
            for name, arm in self.arms_of(results).items()
            for measure in measures
            for feature in ("mean", hidden)
        }

    def shown(self, results: Results, arm: Arm, measure: str, seeds: Sequence[int], place: str | None = None) -> str:
        """As `shown`, here or at another place."""
        return shown(results, arm, place or self.place, measure, seeds)

    def rates(
        self,
        results: Results,
        tries: Mapping[str, Mapping[float, Arm]],
        chosen: Mapping[str, float],
        seeds: Sequence[int],
    ) -> tuple[str, str]:
        """As `rates`, of the mean of the primary measure."""
        return rates(results, tries, chosen, seeds, self.place, f"{self.measure} mean")


def shown(results: Results, arm: Arm, place: str, measure: str, seeds: Sequence[int]) -> str:
    """Percent by seed, "-" where nothing has run."""
    found = results.scores(arm, place, measure)
    return ", ".join(f"{100 * found[seed]:.1f}" for seed in seeds if seed in found) or "-"


def rates(
    results: Results,
    tries: Mapping[str, Mapping[float, Arm]],
    chosen: Mapping[str, float],
    seeds: Sequence[int],
    place: str,
    measure: str,
) -> tuple[str, str]:
    """A table of every arm at every rate, the chosen one in bold; and arms whose rate is at the edge of its own."""
    columns = sorted({rate for by_rate in tries.values() for rate in by_rate})
    rows = []
    for name, by_rate in tries.items():
        cells = {rate: shown(results, arm, place, measure, seeds) for rate, arm in by_rate.items()}
        rows.append([name, *(_emphasised(cells.get(rate, ""), rate == chosen.get(name)) for rate in columns)])
    edge = [name for name, by_rate in tries.items() if chosen.get(name) in (min(by_rate), max(by_rate))]
    return table(["arm", *(f"{rate:g}" for rate in columns)], rows), ", ".join(edge) or "none"


def _emphasised(cell: str, is_chosen: bool) -> str:
    return f"**{cell}**" if is_chosen else cell
