"""Leftovers fill batches exactly, without slivers where order can avoid them."""

from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.plan.packing import pack


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 64), st.integers(1, 16))
def test_every_sample_once_and_batches_full(sizes, capacity, minimum):
    batches = pack(sizes, capacity, minimum)
    seen = {item: [] for item in range(len(sizes))}
    for batch in batches:
        assert len({item for item, _, _ in batch}) == len(batch)
        for item, start, count in batch:
            assert count > 0
            seen[item].extend(range(start, start + count))
    assert all(samples == list(range(sizes[item])) for item, samples in seen.items())
    lengths = [sum(count for _, _, count in batch) for batch in batches]
    assert lengths[:-1] == [capacity] * (len(lengths) - 1)
    assert not lengths or 0 < lengths[-1] <= capacity


def test_no_sliver_when_another_order_avoids_it():
    batches = pack([60, 55, 64, 95], 128, 16)
    assert all(count >= 16 for batch in batches for _, _, count in batch)


def test_slivers_are_rare_among_many_items():
    sizes = [16 + (37 * item) % 111 for item in range(200)]
    pieces = [count for batch in pack(sizes, 128, 16) for _, _, count in batch]
    assert sum(count < 16 for count in pieces) <= 1


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=25), st.integers(1, 64), st.integers(1, 16))
def test_items_of_a_group_never_share_a_batch_and_few_batches_are_short(items, capacity, minimum):
    sizes, groups = [size for size, _ in items], [group for _, group in items]
    batches = pack(sizes, capacity, minimum, groups)
    seen = {item: [] for item in range(len(items))}
    for batch in batches:
        assert len({groups[item] for item, _, _ in batch}) == len(batch)
        for item, start, count in batch:
            seen[item].extend(range(start, start + count))
    assert all(samples == list(range(sizes[item])) for item, samples in seen.items())
    lengths = [sum(count for _, _, count in batch) for batch in batches]
    largest = max((sum(other == group and size > 0 for size, other in items) for group in groups), default=0)
    assert all(0 < length <= capacity for length in lengths)
    assert sum(length < capacity for length in lengths) <= largest
