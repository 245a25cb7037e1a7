import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.plan.segments import SegmentLayout


@given(st.lists(st.integers(1, 9), max_size=12))
def test_bounds_tile_the_batch_in_order(lengths):
    layout = SegmentLayout(tuple(lengths))
    positions = [position for start, stop in layout.bounds() for position in range(start, stop)]
    assert positions == list(range(layout.size)) and layout.size == sum(lengths)
    assert [stop - start for start, stop in layout.bounds()] == lengths


def test_one_segment():
    assert SegmentLayout.one(5) == SegmentLayout((5,)) and SegmentLayout.one(5).bounds() == ((0, 5),)


@pytest.mark.parametrize("lengths", [(0,), (3, 0, 2), (-1,)])
def test_an_empty_segment_is_refused(lengths):
    with pytest.raises(ValueError, match="positive"):
        SegmentLayout(lengths)


def test_it_is_a_value():
    layout = SegmentLayout((2, 3))
    assert layout.size == 5  # fills the cache
    assert pickle.loads(pickle.dumps(layout)) == layout == SegmentLayout([2, 3])
    assert len({layout, SegmentLayout((2, 3)), SegmentLayout((3, 2))}) == 2


def test_the_layout_without_some_positions():
    layout = SegmentLayout((3, 1, 4))
    assert layout.without([]) == layout
    assert layout.without([0, 3, 7, 7]).lengths == (2, 3)
    assert layout.without(range(4)).lengths == (4,)
