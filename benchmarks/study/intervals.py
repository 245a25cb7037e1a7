"""Means over seeds with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Interval:
    """Mean of values over seeds and the half width of its 95 % t interval (None for one seed)."""

    mean: float
    half: float | None

    @property
    def verdict(self) -> str:
        """Of a difference: "wins", "loses", or "ties" when the interval holds zero or there is none."""
        if self.half is None or abs(self.mean) <= self.half:
            return "ties"
        return "wins" if self.mean > 0 else "loses"


def interval(values: Sequence[float]) -> Interval:
    """Student's interval of the mean of independent values."""
    count = len(values)
    if count < 2:
        return Interval(float(values[0]), None)
    half = student.ppf(0.975, count - 1) * np.std(values, ddof=1) / np.sqrt(count)
    return Interval(float(np.mean(values)), float(half))


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error, the degrees of freedom of that, and the standard deviation within the blocks."""

    mean: float
    error: float
    freedom: int
    deviation: float = 0.0

    @property
    def p(self) -> float:
        """Of a mean of zero, two-sided."""
        if self.error == 0:
            return float(self.mean == 0)
        return float(2 * student.sf(abs(self.mean) / self.error, self.freedom))

    def interval(self, alpha: float = 0.05) -> Interval:
        """Student's, at the level 1 - alpha."""
        return Interval(self.mean, float(student.ppf(1 - alpha / 2, self.freedom) * self.error))


def within_blocks(blocks: Sequence[Sequence[float]]) -> Estimate:
    """Mean of the blocks' means; blocks are fixed, so its error comes from the spread within them alone, pooled.

    Every block needs two values, or more.
    """
    count = len(blocks)
    freedom = sum(len(block) - 1 for block in blocks)
    pooled = sum(float(np.sum((np.asarray(block) - np.mean(block)) ** 2)) for block in blocks) / freedom
    error = np.sqrt(pooled * sum(1 / len(block) for block in blocks)) / count
    mean = float(np.mean([np.mean(block) for block in blocks]))
    return Estimate(mean, float(error), freedom, float(np.sqrt(pooled)))


def holm(estimates: dict[str, Estimate], alpha: float = 0.05) -> dict[str, Interval]:
    """Intervals of several comparisons under Holm's procedure, in the order given.

    The one with the i-th smallest p (from 0) of m gets the level 1 - alpha / (m - i); once one of them holds zero, all
    later ones are widened to hold it too, since Holm stops there.
    """
    ordered = sorted(estimates, key=lambda name: estimates[name].p)
    found: dict[str, Interval] = {}
    stopped = False
    for place, name in enumerate(ordered):
        interval = estimates[name].interval(alpha / (len(ordered) - place))
        stopped = stopped or interval.verdict == "ties"
        half = interval.half if not stopped else max(interval.half or 0.0, abs(interval.mean))
        found[name] = Interval(interval.mean, half)
    return {name: found[name] for name in estimates}
