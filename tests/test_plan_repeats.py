"""The laws of the plan where sources are repeated: exactly so often an epoch, never twice in a global batch."""

import hashlib
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcl_clip.errors import UserError
from mcl_clip.plan.left_out import left_out
from mcl_clip.plan.plan import make_plan
from mcl_clip.plan.policy import Policy
from mcl_clip.plan.repeats import deal

G = 24
COUNTS = [1, 2, 3, 5]


@st.composite
def cases(draw):
    """(label paths, shard labels, shard sizes, shard repeats): every bucket mixes shards of any repeats and size."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 7, G, 2 * G, 4 * G + 3]), min_size=1, max_size=4))
    limit = draw(st.integers(5, 40))
    paths = [f"{label % 3}/{label // 3}" for label in range(len(sizes))]
    shards = [(label, min(limit, size - at)) for label, size in enumerate(sizes) for at in range(0, size, limit)]
    shards += [(label, 0) for label in range(draw(st.integers(0, len(sizes))))]
    shards = draw(st.permutations(shards))
    assume(sum(size for _, size in shards) >= G)
    counts = draw(st.lists(st.sampled_from(COUNTS), min_size=len(shards), max_size=len(shards)))
    return paths, *(np.array(column) for column in (*zip(*shards, strict=True), counts))


policies = st.builds(
    Policy,
    min_segment=st.integers(1, 12),
    lanes=st.integers(1, 9),
    window=st.integers(1, 70),
    leftovers=st.just("pack"),
)


def plan_of(case, policy=Policy(min_segment=4), seed=0, stage=1, epoch=0):  # noqa: B008
    paths, labels, sizes, repeats = case
    options = {"seed": seed, "stage": stage, "epoch": epoch, "global_batch": G, "policy": policy}
    return make_plan(paths, labels, sizes, shard_repeats=repeats, **options)


def samples(batch):
    return list(zip(batch.shard.tolist(), batch.ordinal.tolist(), strict=True))


def wanted(case):
    """How often every sample is to be taken."""
    return {
        (shard, ordinal): int(count)
        for shard, (size, count) in enumerate(zip(case[2], case[3], strict=True))
        for ordinal in range(size)
    }


@given(cases(), policies)
def test_every_sample_exactly_as_often_as_its_source_says_plus_declared_padding(case, policy):
    plan = plan_of(case, policy)
    fresh, padding = Counter(), 0
    for t in range(len(plan)):
        batch = plan[t]
        for (start, stop), repeated in zip(batch.layout.bounds(), batch.padding, strict=True):
            fresh.update(samples(batch)[start : stop - repeated])
            padding += repeated
    assert dict(fresh) == wanted(case)
    assert padding == plan.num_padding < G * max(case[3])
    assert plan.num_samples == sum(wanted(case).values()) == plan.num_repeats + len(wanted(case))
    assert len(plan) * G == plan.num_samples + plan.num_padding


@given(cases(), policies)
def test_no_sample_twice_in_a_global_batch_and_one_label_a_segment(case, policy):
    plan = plan_of(case, policy)
    for t in range(len(plan)):
        batch = plan[t]
        assert len(set(samples(batch))) == G
        assert len(set(batch.labels)) == len(batch.labels)
        for (start, stop), name in zip(batch.layout.bounds(), batch.labels, strict=True):
            effective = plan.back_off.effective[case[1][batch.shard[start:stop]]]
            assert {plan.back_off.names[index] for index in effective} == {name}


@given(cases(), st.integers(1, 12))
def test_drop_takes_none_too_often_and_counts_the_others(case, min_segment):
    try:
        plan = plan_of(case, Policy(leftovers="drop", min_segment=min_segment, window=30))
    except UserError as error:
        assert "--mcl-leftovers pack" in str(error)
        return
    seen = Counter(sample for t in range(len(plan)) for sample in samples(plan[t]))
    assert all(count <= wanted(case)[sample] for sample, count in seen.items())
    assert plan.num_samples - sum(seen.values()) == plan.num_dropped


@given(cases(), policies, st.sampled_from([1, 2, 3, 4, 6, 8]))
def test_ranks_are_slices_of_the_same_batch_and_resumes_and_pickles_change_nothing(case, policy, world):
    plan, again, width = plan_of(case, policy), pickle.loads(pickle.dumps(plan_of(case, policy))), G // world
    for t in reversed(range(len(plan))):
        parts = [again.positions(t, start, start + width) for start in range(0, G, width)]
        assert np.array_equal(np.concatenate([shard for shard, _ in parts]), plan[t].shard)
        assert np.array_equal(np.concatenate([ordinal for _, ordinal in parts]), plan[t].ordinal)


@given(cases(), policies)
def test_substitutes_are_outside_the_batch_and_never_collide(case, policy):
    plan = plan_of(case, policy)
    for t in {0, len(plan) // 2, len(plan) - 1}:
        batch = plan[t]
        inside, taken = set(samples(batch)), {}
        for (start, stop), name in zip(batch.layout.bounds(), batch.labels, strict=True):
            for position in range(start, stop):
                rivals, candidates = plan.substitutes(t, position)
                for sample in candidates:
                    assert sample not in inside
                    assert sample in wanted(case)
                    assert plan.back_off.names[plan.back_off.effective[case[1][sample[0]]]] == name
                    owners = taken.setdefault(sample, [])
                    assert owners == list(rivals)
                    owners.append(position)


@given(cases(), policies)
def test_counts_of_one_are_the_plan_without_counts(case, policy):
    once = (*case[:3], np.ones(len(case[3]), int))
    plan, plain = plan_of(once, policy), plan_of((*case[:3], None), policy)
    assert [samples(plan[t]) for t in range(len(plan))] == [samples(plain[t]) for t in range(len(plain))]


@given(cases(), policies)
def test_epochs_differ_but_not_in_length(case, policy):
    plans = [plan_of(case, policy, epoch=epoch) for epoch in range(3)]
    assert len({(len(plan), plan.num_padding) for plan in plans}) == 1
    if len(plans[0]) > 4:
        assert len({tuple(samples(plan[t]) for t in range(len(plan))).__repr__() for plan in plans}) == 3


@given(
    repeats=st.integers(2, 9),
    more=st.integers(0, 40),
    rest=st.integers(0, G - 1),
    lanes=st.sampled_from([1, 2, 3, 8]),
    window=st.integers(1, 300),
    key=st.integers(0, 2**64 - 1),
)
def test_the_line_is_dealt_out_row_by_row(repeats, more, rest, lanes, window, key):
    full = repeats + more
    copies = full * G + rest
    places = deal(
        np.arange(copies), copies=copies, repeats=repeats, full=full, lanes=lanes, window=window, global_batch=G,
        key=np.array([key], np.uint64),
    )  # fmt: skip
    # Twin: what is left over is taken out of the line; the rest is cut into rows, lane by lane, window by window.
    left_over = list(range(copies - rest * repeats, copies, repeats))
    line = iter([place for place in range(copies) if place not in left_over])
    windows = max(1, min(full // (2 * repeats), -(-full * (G // lanes) // (window * repeats))))
    dealt = {batch: [] for batch in range(full)}
    for lane in range(lanes):
        chunk = range(lane * G // lanes, (lane + 1) * G // lanes)
        for at in range(windows):
            batches = range(at * full // windows, (at + 1) * full // windows)
            assert len(batches) >= repeats
            of_window = [places[batch * G + position] for batch in batches for position in chunk]
            rows = [[next(line) for _ in batches] for _ in chunk]
            assert sorted(of_window) == [place for row in rows for place in row]
            for batch in batches:
                mine = sorted(places[batch * G + position] for position in chunk)
                assert all(place in row for place, row in zip(mine, rows, strict=True))
                dealt[batch] += mine
    assert places[full * G :].tolist() == left_over
    # What it is for: as many adjacent places as a sample may have copies, never two in a batch.
    for batch in [*dealt.values(), left_over]:
        assert all(high - low >= repeats for low, high in zip(sorted(batch)[:-1], sorted(batch)[1:], strict=True))


@given(copies=st.integers(2, 300), repeats=st.integers(2, 12), key=st.integers(0, 9))
def test_a_bucket_without_full_batches_is_dealt_into_pieces(copies, repeats, key):
    assume(copies >= repeats)
    places = deal(
        np.arange(copies),
        copies=copies,
        repeats=repeats,
        full=0,
        lanes=1,
        window=9,
        global_batch=G,
        key=np.array([key], np.uint64),
    )
    assert places.tolist() == [place for piece in range(repeats) for place in range(piece, copies, repeats)]


def test_copies_meet_other_samples_each_time_and_spread_over_the_window():
    """Of 12,000 samples taken twice, those beside the first copy are seldom beside the second."""
    plan = make_plan(
        [""], np.zeros(12, int), np.full(12, 1000), seed=0, stage=0, epoch=0, global_batch=100, policy=Policy(),
        shard_repeats=np.full(12, 2),
    )  # fmt: skip
    batches = [set(samples(plan[t])) for t in range(len(plan))]
    met: dict = {}
    for t, batch in enumerate(batches):
        for sample in batch:
            met.setdefault(sample, []).append(t)
    again = np.mean([len(batches[first] & batches[second]) - 1 for first, second in met.values()])
    apart = np.mean([second - first for first, second in met.values()])
    assert again < 5  # by chance 0.4 of 99; 49 where copies follow each other
    assert apart > 10


def test_a_small_source_is_spread_over_the_epoch_and_mixed_with_the_others():
    plan = make_plan(
        [""], np.zeros(20, int), np.array([500] * 18 + [250] * 2), seed=0, stage=0, epoch=0, global_batch=100,
        policy=Policy(), shard_repeats=np.array([1] * 18 + [6] * 2),
    )  # fmt: skip
    shares = [np.isin(plan[t].shard, (18, 19)).mean() for t in range(len(plan))]
    assert len(plan) == 120 and np.isclose(np.mean(shares), 0.25)
    assert min(shares) > 0.05 and max(shares) < 0.6


def test_repeats_are_told():
    plan = plan_of(([""], np.array([0, 0]), np.array([3 * G, G]), np.array([1, 3])))
    told = left_out(plan)
    assert told["taken again (--train-data-upsampling-factors)"]["count"] == 2 * G


def test_fewer_different_samples_than_a_global_batch_are_refused():
    with pytest.raises(UserError, match=f"{G - 1} samples are fewer than one global batch of {G}"):
        plan_of(([""], np.array([0]), np.array([G - 1]), np.array([3])))


def test_plans_are_the_same_bytes_in_every_version():
    case = ([f"{label}" for label in range(5)], np.arange(40) % 5, np.arange(40) * 3, np.arange(40) % 4 + 1)
    digest = hashlib.sha256()
    for epoch in range(2):
        plan = plan_of(case, Policy(min_segment=4, lanes=3, window=50), epoch=epoch)
        for t in range(len(plan)):
            digest.update(plan[t].shard.astype("<i4").tobytes() + plan[t].ordinal.astype("<i4").tobytes())
    assert digest.hexdigest() == "2ee3205bc2779dc40cb4b4ed48f0174a5c712de3c63eaf0683cfd0e17bcee35b"
