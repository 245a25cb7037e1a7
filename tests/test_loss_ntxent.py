"""NT-Xent within segments: against lightly, loops, and real ranks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightly.loss import NTXentLoss

from mcl_clip.errors import UserError
from mcl_clip.loss import MCLNTXentLoss
from mcl_clip.plan.segments import SegmentLayout
from tests.distributed import once, run_ranks
from tests.slow_losses import features, labels_of, ntxent_by_loops, value_and_gradients

SIZE, DIM = 12, 6
LAYOUTS = [(12,), (5, 1, 6), (3, 3, 3, 3), (2, 8, 2), (4, 5, 3)]


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("block_memory", [8 * 66 * 3, 1 << 26])
def test_one_segment_equals_lightly(dtype, atol, temperature, block_memory):
    views = features(33, 16, 0, dtype)
    ours = MCLNTXentLoss(temperature=temperature, block_memory=block_memory)(*views)
    theirs = NTXentLoss(temperature=temperature)(*views)
    # Lightly normalises once more; a gradient along a unit vector, which ours has, is lost in any normalisation.
    value, *gradients = value_and_gradients(ours, *views)
    expected, *others = value_and_gradients(theirs, *views)
    torch.testing.assert_close(value, expected.to(value.dtype), atol=atol, rtol=0)
    for mine, other, view in zip(gradients, others, views, strict=True):
        across = mine - (mine * view).sum(1, keepdim=True) * view
        torch.testing.assert_close(across, other, atol=atol, rtol=0)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.sampled_from([8, 8 * 12 * 4, 1 << 20]))
def test_segments_equal_loops(lengths, block_memory):
    views = features(sum(lengths), DIM, 3)
    ours = MCLNTXentLoss(temperature=0.3, block_memory=block_memory)(*views, segments=SegmentLayout(tuple(lengths)))
    slow = ntxent_by_loops(*views, 0.3, labels_of(lengths))
    for mine, reference in zip(value_and_gradients(ours, *views), value_and_gradients(slow, *views), strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-10, rtol=0)


def test_a_layout_of_other_features_is_refused():
    with pytest.raises(UserError, match="has 7 positions"):
        MCLNTXentLoss()(*features(6, DIM, 0), segments=SegmentLayout((7,)))
    with pytest.raises(UserError, match="first and second view"):
        MCLNTXentLoss()(features(6, DIM, 0)[0], features(5, DIM, 0)[0])


def of_rank(rank, world_size):
    own = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    found = {}
    for lengths in LAYOUTS:
        for block_memory in (8 * 50, 1 << 20):
            views = [each.detach()[own].clone().requires_grad_() for each in features(SIZE, DIM, 7)]
            loss = MCLNTXentLoss(rank=rank, world_size=world_size, block_memory=block_memory)
            value = loss(*views, segments=SegmentLayout(lengths))
            found[lengths, block_memory] = [each.numpy() for each in value_and_gradients(value, *views)]
    return found


@once
def ranks_of(world_size):
    return run_ranks(of_rank, world_size)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("lengths", LAYOUTS)
def test_ranks_equal_one_process(world_size, lengths):
    views = features(SIZE, DIM, 7)
    value, *gradients = value_and_gradients(ntxent_by_loops(*views, 0.5, labels_of(lengths)), *views)
    for block_memory in (8 * 50, 1 << 20):
        found = [rank[lengths, block_memory] for rank in ranks_of(world_size)]
        assert np.mean([each[0] for each in found]) == pytest.approx(value.item(), abs=1e-12)
        for index, expected in enumerate(gradients, start=1):
            averaged = np.concatenate([each[index] for each in found]) / world_size
            np.testing.assert_allclose(averaged, expected, atol=1e-12)
