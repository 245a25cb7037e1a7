from hypothesis import example, given
from hypothesis import strategies as st

from mcl_clip.loss.blocks import SHORTEST, blocks_of
from mcl_clip.plan.segments import SegmentLayout
from tests.slow_losses import labels_of

DIM = 3
layouts = st.lists(st.integers(1, 7), min_size=1, max_size=10).map(lambda lengths: SegmentLayout(tuple(lengths)))


@given(layouts, st.integers(0, 20), st.integers(1, 70), st.integers(1, 60), st.integers(1, 200))
def test_blocks_hold_exactly_the_pairs_of_one_label(layout, first, count, max_logits, max_elements):
    start, stop = min(first, layout.size - 1), min(first + count, layout.size)
    stop = max(stop, start + 1)
    labels = labels_of(layout.lengths)
    expected = {(i, j) for i in range(start, stop) for j in range(layout.size) if labels[i] == labels[j]}
    pairs, positives = [], set()
    for block in blocks_of(layout, start, stop, DIM, max_elements):
        many = len(block.starts)
        assert many == 1 or many * block.rows * (block.rows + 2 * DIM) <= max_elements
        assert many == 1 or (block.rows == block.columns and min(block.lengths) >= SHORTEST * block.rows)
        strips = list(block.strips(max_logits))
        assert (len(strips) == 1) or not block.fits(max_logits)
        for low, high in strips:
            assert high - low == 1 or many * (high - low) * block.columns <= max_logits
            for row, length in zip(block.starts, block.lengths, strict=True):
                for i in range(low, min(high, length)):
                    column = row + block.shift
                    candidates = block.columns if many == 1 else length
                    pairs += [(start + row + i, column + j) for j in range(candidates)]
                    positives.add((start + row + i, column + block.diagonal + i))
    assert len(pairs) == len(set(pairs)) and set(pairs) == expected
    assert positives == {(i, i) for i in range(start, stop)}


@given(layouts)
@example(SegmentLayout((3, 3, 3)))
def test_only_neighbours_of_one_length_are_one_view(layout):
    for block in blocks_of(layout, 0, layout.size, DIM, 1 << 20):
        one_view = [start + i for start, length in zip(block.starts, block.lengths, strict=True) for i in range(length)]
        span = list(range(block.starts[0], block.starts[0] + len(block.starts) * block.rows))
        assert block.is_even == (one_view == span)


def test_segments_of_like_lengths_are_batched():
    layout = SegmentLayout((16, 4, 17, 1, 15, 5, 16, 40))
    found = blocks_of(layout, 0, layout.size, DIM, 1 << 20)
    assert [block.lengths for block in found] == [(40,), (17, 16, 16, 15), (5, 4), (1,)]
    few = blocks_of(layout, 0, layout.size, DIM, 2 * 17 * (17 + 2 * DIM))
    assert [block.lengths for block in few] == [(40,), (17, 16), (16, 15), (5, 4), (1,)]
