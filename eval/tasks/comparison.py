"""Two models on the same pairs: what the second won and lost, and how certain that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from eval.intervals import paired_difference


@dataclass(frozen=True)
class Comparison:
    """Counts of pairs; difference: second minus first, as a fraction; interval: its 95 %; p_value: see `mcnemar`."""

    type: str
    pairs: int
    first: int
    second: int
    won: int
    lost: int
    difference: float
    interval: tuple[float, float]
    p_value: float


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test: of the pairs that differ, is either side as likely? 1 without any."""
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def compare(first: np.ndarray, second: np.ndarray, types: Sequence[str]) -> list[Comparison]:
    """Of every Type in order of appearance; of all pairs last where there are several. `first`, `second`: 0 or 1, [n].

    Intervals are those of `paired_difference`. P-values are not corrected for their number.
    """
    labels = np.array(types)
    names = list(dict.fromkeys(types))
    groups = {name: labels == name for name in names}
    if len(names) > 1:
        groups["all pairs"] = np.ones(len(labels), bool)
    return [_compare(name, first[members], second[members]) for name, members in groups.items()]


def _compare(name: str, first: np.ndarray, second: np.ndarray) -> Comparison:
    difference = second - first
    won, lost = int((difference > 0).sum()), int((difference < 0).sum())
    return Comparison(
        type=name,
        pairs=len(first),
        first=int(first.sum()),
        second=int(second.sum()),
        won=won,
        lost=lost,
        difference=float(difference.mean()),
        interval=paired_difference(first, second),
        p_value=mcnemar(won, lost),
    )
