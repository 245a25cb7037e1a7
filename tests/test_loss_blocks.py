from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.loss import blocks
from mcl_clip.loss.blocks import blocks_of
from mcl_clip.plan.segments import SegmentLayout
from tests.slow_losses import labels_of

layouts = st.lists(st.integers(1, 7), min_size=1, max_size=10).map(lambda lengths: SegmentLayout(tuple(lengths)))


@given(layouts, st.integers(0, 20), st.integers(1, 70), st.integers(1, 60))
def test_blocks_hold_exactly_the_pairs_of_one_label(layout, first, count, max_logits):
    start, stop = min(first, layout.size - 1), min(first + count, layout.size)
    stop = max(stop, start + 1)
    labels = labels_of(layout.lengths)
    expected = {(i, j) for i in range(start, stop) for j in range(layout.size) if labels[i] == labels[j]}
    pairs, positives = [], set()
    for block in blocks_of(layout, start, stop):
        for low, high in block.strips(max_logits):
            assert high - low == 1 or (high - low) * block.columns * block.count <= max_logits
            for each in range(block.count):
                for i in range(low, high):
                    row = start + block.row_start + each * block.rows + i
                    column = block.column_start + each * block.columns
                    pairs += [(row, column + j) for j in range(block.columns)]
                    positives.add((row, column + block.diagonal + i))
    assert len(pairs) == len(set(pairs)) and set(pairs) == expected
    assert positives == {(i, i) for i in range(start, stop)}


def test_equal_neighbours_are_batched_within_the_limit(monkeypatch):
    monkeypatch.setattr(blocks, "BATCHED_LOGITS", 40)
    found = blocks_of(SegmentLayout((3, 3, 3, 3, 3, 2, 8)), 0, 25)
    assert [(block.count, block.columns) for block in found] == [(4, 3), (1, 3), (1, 2), (1, 8)]
