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
