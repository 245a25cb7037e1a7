"""Intervals: known values, and coverage where a bootstrap has too little."""

from pathlib import Path

import numpy as np
import pytest

from eval.data.mmvp import MMVPPair
from eval.intervals import bootstrap_mean, paired_difference, share_interval
from eval.tasks.mmvp import gains, pair_metrics
from eval.tasks.pair_similarities import PairSimilarities

N = 15


def trials(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    cells = np.repeat([[1.0, 1], [1, 0], [0, 1], [0, 0]], [both, lost, won, neither], axis=0)
    return cells[:, 0], cells[:, 1]


def test_newcombes_method_10_by_the_numbers_of_his_paper() -> None:
    first, second = trials(36, 12, 2, 0)  # his table II, second minus first
    assert paired_difference(second, first) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_pairs_that_all_change_alike_are_not_certain() -> None:
    low, high = paired_difference(np.zeros(10), np.ones(10))
    assert 0.5 < low < 0.7 and high == pytest.approx(1)
    low, high = share_interval(np.ones(N))
    assert low == pytest.approx(0.796, abs=1e-3) and high == pytest.approx(1)


def test_coverage_with_the_pairs_of_an_mmvp_type() -> None:
    rng = np.random.default_rng(0)
    held = dict.fromkeys(("wilson", "its bootstrap", "newcombe", "its bootstrap, paired"), 0)
    for _ in range(150):
        hits = (rng.random(N) < 0.95).astype(float)
        first, second = trials(*rng.multinomial(N, [0.05, 0, 0.9, 0.05]))
        ends = (
            share_interval(hits),
            bootstrap_mean(hits),
            paired_difference(first, second),
            bootstrap_mean(second - first),
        )
        for name, truth, (low, high) in zip(held, (0.95, 0.95, 0.9, 0.9), ends, strict=True):
            held[name] += low <= truth <= high
    shares = {name: count / 150 for name, count in held.items()}
    assert min(shares["wilson"], shares["newcombe"]) > 0.9, shares
    assert max(shares["its bootstrap"], shares["its bootstrap, paired"]) < 0.85, shares


@pytest.mark.parametrize("types", [["a"] * 10, ["a", "b"] * 5])
def test_ten_pairs_are_never_certain_of_a_type(types) -> None:
    pairs = [MMVPPair(kind, (2 * n + 1, 2 * n + 2), ("", ""), (Path(), Path())) for n, kind in enumerate(types)]

    def choosing(own: float) -> PairSimilarities:
        return PairSimilarities(np.tile([[own, 0.5], [0.5, own]], (10, 1, 1)), np.ones(10), np.ones(10))

    wrong, right = choosing(0.0), choosing(1.0)
    metrics, ends = pair_metrics(right, pairs)
    gained, gain_ends = gains(right, wrong, pairs)
    plain = ["same_image_rate", "pair_accuracy/a", *(["pair_accuracy"] if len(set(types)) == 1 else [])]
    assert metrics["pair_accuracy/a"] == 1 == gained["gain/a"]
    assert all(high - low > 0.2 for low, high in (ends[name] for name in plain))
    assert gain_ends["gain/a"][0] < 0.7 and (len(set(types)) > 1 or gain_ends["gain"] == gain_ends["gain/a"])
