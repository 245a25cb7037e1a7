"""The laws of the plan, over skewed bucket sizes."""

import hashlib
import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mcl_clip.errors import UserError
from mcl_clip.plan.plan import make_plan
from mcl_clip.plan.policy import Policy

G = 24


@st.composite
def cases(draw):
    """(label paths, shard labels, shard sizes): skewed buckets cut into shards of any size, also empty."""
    sizes = draw(
        st.lists(st.sampled_from([0, 1, 2, 7, G - 1, G, G + 1, 2 * G, 5 * G + 3, 300]), min_size=1, max_size=8)
    )
    limit = draw(st.integers(1, 40))
    paths = [f"{label % 3}/{label // 3}" for label in range(len(sizes))]
    shards = [(label, min(limit, size - at)) for label, size in enumerate(sizes) for at in range(0, size, limit)]
    shards += [(label, 0) for label in range(draw(st.integers(0, len(sizes))))]
    shards = draw(st.permutations(shards))
    assume(sum(size for _, size in shards) >= G)
    return paths, np.array([label for label, _ in shards]), np.array([size for _, size in shards])


policies = st.builds(
    Policy,
    min_segment=st.integers(1, 12),
    lanes=st.integers(1, 9),
    window=st.integers(1, 70),
    leftovers=st.just("pack"),
)


def plan_of(case, policy=Policy(min_segment=4), seed=0, stage=1, epoch=0):  # noqa: B008
    return make_plan(*case, seed=seed, stage=stage, epoch=epoch, global_batch=G, policy=policy)


def batch_samples(batch):
    return list(zip(batch.shard.tolist(), batch.ordinal.tolist(), strict=True))


def all_samples(case):
    return {(shard, ordinal) for shard, size in enumerate(case[2]) for ordinal in range(size)}


@given(cases(), policies)
def test_pack_every_sample_exactly_once_plus_declared_padding(case, policy):
    plan = plan_of(case, policy)
    fresh, repeated = Counter(), []
    for t in range(len(plan)):
        batch = plan[t]
        samples = batch_samples(batch)
        for (start, stop), padding in zip(batch.layout.bounds(), batch.padding, strict=True):
            fresh.update(samples[start : stop - padding])
            repeated.extend(samples[stop - padding : stop])
    assert set(fresh) == all_samples(case)
    assert set(fresh.values()) == {1}
    assert len(repeated) == plan.num_padding < G
    assert len(plan) * G == plan.num_samples + plan.num_padding


@given(cases(), policies)
def test_no_duplicate_in_a_global_batch(case, policy):
    plan = plan_of(case, policy)
    for t in range(len(plan)):
        assert len(set(batch_samples(plan[t]))) == G


@given(cases(), policies)
def test_one_effective_label_a_segment(case, policy):
    plan = plan_of(case, policy)
    for t in range(len(plan)):
        batch = plan[t]
        assert batch.layout.size == G
        assert len(set(batch.labels)) == len(batch.labels) == len(batch.layout.lengths)
        for (start, stop), name in zip(batch.layout.bounds(), batch.labels, strict=True):
            effective = plan.back_off.effective[case[1][batch.shard[start:stop]]]
            assert {plan.back_off.names[index] for index in effective} == {name}


@given(cases(), st.integers(1, 12))
def test_drop_at_most_once_and_counted(case, min_segment):
    policy = Policy(leftovers="drop", min_segment=min_segment, window=30)
    try:
        plan = plan_of(case, policy)
    except UserError:
        sizes = np.bincount(case[1], case[2])
        assert (sizes[sizes >= min_segment] < G).all()
        return
    seen = Counter(sample for t in range(len(plan)) for sample in batch_samples(plan[t]))
    assert set(seen.values()) == {1}
    assert plan.num_samples - len(seen) == plan.num_dropped
    assert all(len(plan.segments(t)) == 1 for t in range(len(plan)))


@given(cases(), policies, st.sampled_from([1, 2, 3, 4, 6, 8]), st.sampled_from([1, 2, 3]))
def test_ranks_and_micro_batches_are_slices_of_the_same_batch(case, policy, world, micro):
    assume(G % (world * micro) == 0)
    plan, width = plan_of(case, policy), G // (world * micro)
    for t in range(len(plan)):
        parts = [plan.positions(t, start, start + width) for start in range(0, G, width)]
        batch = plan[t]
        assert np.array_equal(np.concatenate([shard for shard, _ in parts]), batch.shard)
        assert np.array_equal(np.concatenate([ordinal for _, ordinal in parts]), batch.ordinal)


@given(cases(), policies, st.integers(0, 2**70))
def test_same_seed_same_bytes_also_after_pickling_and_in_any_order(case, policy, seed):
    first, second = plan_of(case, policy, seed), pickle.loads(pickle.dumps(plan_of(case, policy, seed)))
    assert len(first) == len(second)
    for t in reversed(range(len(first))):
        assert first[t].layout == second[t].layout
        assert first[t].shard.tobytes() == second[t].shard.tobytes()
        assert first[t].ordinal.tobytes() == second[t].ordinal.tobytes()


@given(cases(), policies)
def test_epochs_stages_and_seeds_differ_but_not_in_length(case, policy):
    variants = [plan_of(case, policy, *which) for which in ((0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0))]
    assert len({len(plan) for plan in variants}) == 1
    assert len({plan.num_padding for plan in variants}) == 1
    if len(variants[0]) > 4:
        orders = {tuple(sample for t in range(len(plan)) for sample in batch_samples(plan[t])) for plan in variants}
        assert len(orders) == len(variants)


@given(cases(), policies)
def test_no_stretch_of_an_epoch_is_left_to_one_bucket(case, policy):
    """Between two batches of a bucket, another one gets no more than its even share plus one."""
    plan = plan_of(case, policy)
    counts = np.bincount(plan.batch_bucket)
    for bucket in np.flatnonzero(counts):
        at = np.flatnonzero(plan.batch_bucket == bucket)
        stretches = np.split(plan.batch_bucket, at)
        for other in np.flatnonzero(counts):
            if other != bucket:
                most = max(int((stretch == other).sum()) for stretch in stretches)
                assert most <= counts[other] // counts[bucket] + 1


@given(cases(), policies)
def test_substitutes_have_the_same_label_are_outside_the_batch_and_never_collide(case, policy):
    plan = plan_of(case, policy)
    for t in {0, len(plan) // 2, len(plan) - 1}:
        batch = plan[t]
        inside, taken = set(batch_samples(batch)), {}
        for (start, stop), name in zip(batch.layout.bounds(), batch.labels, strict=True):
            for position in range(start, stop):
                rivals, candidates = plan.substitutes(t, position)
                for sample in candidates:
                    assert sample not in inside
                    assert sample in all_samples(case)
                    assert plan.back_off.names[plan.back_off.effective[case[1][sample[0]]]] == name
                    owners = taken.setdefault(sample, [])
                    assert owners == list(rivals)
                    owners.append(position)


def test_a_small_data_set_is_shuffled_as_a_whole():
    plan = make_plan(
        [""], np.zeros(3, int), np.full(3, 800), seed=0, stage=0, epoch=0, global_batch=100, policy=Policy()
    )
    pairs = [len(set(plan[t].shard.tolist())) for t in range(len(plan))]
    assert min(pairs) == 3


def test_leftovers_of_a_one_shard_bucket_change_with_the_epoch():
    dropped = set()
    for epoch in range(20):
        plan = make_plan(
            [""],
            np.zeros(1, int),
            np.array([150]),
            seed=0,
            stage=0,
            epoch=epoch,
            global_batch=100,
            policy=Policy(leftovers="drop"),
        )
        dropped |= set(range(150)) - set(plan[0].ordinal.tolist())
    assert dropped == set(range(150))


def test_padding_prefers_the_labels_the_last_batch_holds():
    case = (["0", "1"], np.array([0, 1]), np.array([5 * G + 10, 3 * G]))
    last = next(t for t in range(9) if plan_of(case).segments(t)[0].padding)
    assert plan_of(case)[last].labels == ("0",)


def test_a_tail_too_small_for_negatives_shares_a_full_batch():
    case = (["0", "1"], np.array([0, 1]), np.array([3 * G + 1, 3 * G + 12]))
    plan = plan_of(case, Policy(min_segment=8))
    assert min(length for t in range(len(plan)) for length in plan.layout(t).lengths) >= 8


def test_fewer_samples_than_a_global_batch_is_refused():
    with pytest.raises(UserError, match="--batch-size"):
        plan_of(([""], np.array([0]), np.array([G - 1])))


@pytest.mark.parametrize("wrong", [{"leftovers": "pad"}, {"lanes": 0}, {"window": 0}, {"min_segment": 0}])
def test_policies_that_make_no_plan_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Policy(**wrong)


def test_contiguous_positions_are_contiguous_lanes():
    """The shards one of four nodes touches are about a quarter of the bucket's."""
    shards = 64
    plan = make_plan(
        [""],
        np.zeros(shards, int),
        np.full(shards, 100),
        seed=0,
        stage=0,
        epoch=0,
        global_batch=80,
        policy=Policy(lanes=4, window=200),
    )
    for node in range(4):
        touched = {int(s) for t in range(len(plan)) for s in plan.positions(t, node * 20, node * 20 + 20)[0]}
        assert len(touched) <= shards // 4 + 2


def test_the_default_policy_is_of_the_global_batch_alone():
    assert Policy().lanes_and_window(32768) == (128, 8192)
    assert Policy().lanes_and_window(64) == (1, 8192)
    assert Policy(lanes=3, window=7).lanes_and_window(32768) == (3, 7)
    plan = make_plan(
        ["0", "1"],
        np.repeat([0, 1], 30),
        np.full(60, 1000),
        seed=0,
        stage=0,
        epoch=0,
        global_batch=512,
        policy=Policy(),
    )
    assert plan.draws.window == 8192 and plan.draws.lanes.tolist() == [2, 2]


def test_plans_are_the_same_bytes_in_every_version():
    """A checkpoint names a plan by its numbers alone: who changes this hash raises `loading.loader.VERSION`."""
    case = ([f"{label}" for label in range(5)], np.arange(40) % 5, np.arange(40) * 3)
    digest = hashlib.sha256()
    for epoch in range(2):
        plan = plan_of(case, Policy(min_segment=4, lanes=3, window=50), epoch=epoch)
        for t in range(len(plan)):
            digest.update(plan[t].shard.astype("<i4").tobytes() + plan[t].ordinal.astype("<i4").tobytes())
    assert digest.hexdigest() == "390553812b62086a1397e3e8e3930e66f1c8ce528a40693bd0ab5018ad3b15bd"
