"""Ordinary batches beside those of one pseudo-label: the laws of the plan hold."""

from collections import Counter

import numpy as np
import pytest

from mcl_clip.errors import UserError
from mcl_clip.plan.plan import make_plan
from mcl_clip.plan.policy import Policy

G = 24
SIZES = np.array([20] * 60)
LABELS = np.arange(60) % 3
PATHS = ["0", "1", "2"]


def plan_of(share, epoch=0, **changed):
    policy = Policy(min_segment=4, ordinary=share, **changed)
    return make_plan(PATHS, LABELS, SIZES, seed=1, stage=0, epoch=epoch, global_batch=G, policy=policy)


def mixed(plan):
    """(samples in ordinary segments, how often each sample is taken)."""
    ordinary, taken = set(), Counter()
    for t in range(len(plan)):
        batch = plan[t]
        samples = list(zip(batch.shard.tolist(), batch.ordinal.tolist(), strict=True))
        for (start, stop), label in zip(batch.layout.bounds(), batch.labels, strict=True):
            taken.update(samples[start:stop])
            if label == "":
                ordinary.update(samples[start:stop])
            else:
                assert {PATHS[LABELS[shard]] for shard, _ in samples[start:stop]} == {label}
    return ordinary, taken


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_every_sample_is_taken_once_and_a_share_with_ordinary_negatives(share):
    plans = [plan_of(share, epoch) for epoch in range(4)]
    assert {len(plan) for plan in plans} == {SIZES.sum() // G}
    shares = []
    for plan in plans:
        ordinary, taken = mixed(plan)
        assert len(taken) == SIZES.sum() and set(taken.values()) == {1}
        shares.append(len(ordinary) / SIZES.sum())
    assert np.mean(shares) == pytest.approx(share, abs=0.1)
    if share == 0.5:
        assert mixed(plans[0])[0] != mixed(plans[1])[0]
        assert any(len({LABELS[shard] for shard in plans[0][t].shard}) == 3 for t in range(len(plans[0])))


def test_no_share_is_the_plan_without_it():
    plain, none = (
        plan_of(0.0),
        make_plan(PATHS, LABELS, SIZES, seed=1, stage=0, epoch=0, global_batch=G, policy=Policy(min_segment=4)),
    )
    assert all((plain[t].shard == none[t].shard).all() for t in range(len(plain)))


def test_what_would_change_the_length_of_epochs_is_refused():
    with pytest.raises(UserError, match="pack"):
        plan_of(0.5, leftovers="drop")
    with pytest.raises(UserError, match="from 0 to 1"):
        plan_of(1.5)
    twice = np.where(LABELS == 0, 2, 1)
    with pytest.raises(UserError, match="--train-data-upsampling-factors"):
        make_plan(
            PATHS, LABELS, SIZES, seed=1, stage=0, epoch=0, global_batch=G, policy=Policy(ordinary=0.5),
            shard_repeats=twice,
        )  # fmt: skip
