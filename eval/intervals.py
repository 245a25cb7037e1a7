"""95 % intervals of the scores."""

import math
from collections.abc import Sequence

import numpy as np

from mcl_clip import seeds

_Z = 1.959963984540054
_ENDS = (2.5, 97.5)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` trials (Wilson, 1927)."""
    if count == 0:
        return 0.0, 1.0
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, center - half), min(1.0, center + half)


def share_interval(trials: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """`wilson` of independent trials, 0 or 1 each, [n]."""
    return wilson(float(np.mean(trials)), len(trials))


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Interval of the share of `second` minus that of `first`, 0 or 1 on the same trials, [n].

    Method 10 of Newcombe, Statistics in Medicine 17 (1998), 2635: the two Wilson intervals, squared and added, with
    the trials' correlation. It has a width where all trials change alike, and where none does.
    """
    count = len(first)
    both, lost = float((first * second).sum()), float((first * (1 - second)).sum())
    won, neither = float((second * (1 - first)).sum()), float(((1 - first) * (1 - second)).sum())
    before, after = (both + lost) / count, (both + won) / count
    (low, high), (low_after, high_after) = wilson(before, count), wilson(after, count)
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    product = both * neither - lost * won
    product = max(0.0, product - count / 2) if product > 0 else product
    correlation = product / math.sqrt(margins) if margins else 0.0

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))

    difference = after - before
    return (
        difference - distance(after - low_after, high - before),
        difference + distance(high_after - after, before - low),
    )


def mean_of_shares(
    shares: Sequence[float] | np.ndarray, counts: Sequence[int] | np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap percentile interval of the mean of `shares`, each of `counts` trials, redrawn within each.

    Trials are right or wrong, so a redrawn share is binomial and no trial is kept: 1,000 classes cost milliseconds.
    """
    counts = np.asarray(counts)
    draws = seeds.generator(seed, len(counts)).binomial(counts, np.clip(shares, 0, 1), (resamples, len(counts)))
    low, high = np.percentile((draws / counts).mean(1), _ENDS)
    return float(low), float(high)


def bootstrap_mean_of_groups(
    values: Sequence[float] | np.ndarray, groups: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over groups of each group's mean; samples are redrawn within their group."""
    values, labels = np.asarray(values, np.float64), np.asarray(groups)
    draws = []
    for number, group in enumerate(np.unique(labels)):
        members = values[labels == group]
        picks = seeds.generator(seed, number).integers(0, len(members), (resamples, len(members)))
        draws.append(members[picks].mean(1))
    low, high = np.percentile(np.mean(draws, 0), _ENDS)
    return float(low), float(high)


def bootstrap_mean(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Bootstrap percentile interval of a mean."""
    return bootstrap_mean_of_groups(values, [""] * len(values))


def bootstrap_ratio(
    hits: np.ndarray, counts: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of sum(hits) / sum(counts) over groups [n], which are redrawn whole."""
    draws = []
    for number in range(resamples):
        picks = seeds.generator(seed, number).integers(0, len(hits), len(hits))
        draws.append(hits[picks].sum() / counts[picks].sum())
    low, high = np.percentile(draws, _ENDS)
    return float(low), float(high)
