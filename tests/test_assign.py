"""The assignment of samples to bucket shards against a list of every sample."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.shards.assign import assign, cut_units

tables = st.integers(1, 5).flatmap(
    lambda labels: st.lists(
        st.lists(st.sampled_from([0, 0, 1, 2, 3, 4, 7, 20]), min_size=labels, max_size=labels),
        min_size=1,
        max_size=6,
    )
)


@given(tables, st.integers(1, 8))
def test_every_sample_is_assigned_once_in_source_order(table, shard_size):
    counts = np.array(table, np.int32)
    # Twin: the rows of the units, sorted by label, as (unit, row); then each label's rows cut in order.
    expected = []
    for label in range(counts.shape[1]):
        rows = [
            (unit, int(counts[unit, :label].sum()) + row)
            for unit in range(len(counts))
            for row in range(counts[unit, label])
        ]
        cuts = [rows[start : start + shard_size] for start in range(0, len(rows), shard_size)]
        expected += [(label, cut) for cut in cuts]
    assignment = assign(counts, shard_size)
    found = []
    for shard in range(len(assignment.group)):
        pieces = assignment.pieces(shard)
        assert all(start < stop for _, start, stop in pieces)
        rows = [(unit, row) for unit, start, stop in pieces for row in range(start, stop)]
        assert len(rows) == assignment.size[shard]
        found.append((int(assignment.group[shard]), rows))
    assert found == expected
    starts = [found[shard][1][0][0] for shard in assignment.order]
    assert starts == sorted(starts)
    assert sorted(assignment.order.tolist()) == list(range(len(found)))


@given(st.lists(st.integers(0, 10), max_size=20), st.integers(1, 15))
def test_units_are_runs_that_cover_the_shards(rows, limit):
    units = cut_units(rows, limit)
    assert [shard for first, last in units for shard in range(first, last)] == list(range(len(rows)))
    for first, last in units:
        assert first < last
        assert sum(rows[first:last]) <= limit or last == first + 1
