"""The student's loss in one process, against open_clip's and against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.loss import DistillClipLoss

from mcl_clip.errors import UserError
from mcl_clip.loss import MCLClipLoss, MCLDistillLoss, MCLSigLipLoss
from mcl_clip.plan.segments import SegmentLayout
from tests.slow_losses import clip_by_loops, distil_by_loops, features, labels_of, value_and_gradients

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5) | st.lists(st.integers(4, 6), min_size=1, max_size=6)
memories = st.sampled_from([16, 16 * 6 * 2, 1 << 20])


def taught(size, dim, seed, dtype=torch.float64):
    """Features and scale of a student, then of a teacher of twice its width."""
    student, teacher = features(size, dim, seed, dtype), features(size, 2 * dim, seed + 1, dtype)
    scales = (torch.tensor(value, dtype=dtype, requires_grad=True) for value in (7.0, 11.0))
    scale, dist_scale = scales
    return (*student, scale), (*teacher, dist_scale)


def assert_all_close(ours, theirs, atol=1e-10):
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference.to(mine.dtype), atol=atol, rtol=0)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("block_memory", [8 * 33 * 5, 1 << 26])
def test_one_segment_equals_open_clip(dtype, atol, block_memory):
    student, teacher = taught(33, 16, 0, dtype)
    loss = MCLDistillLoss(MCLClipLoss(), 1.0, block_memory=block_memory)
    for name in ("distill_loss", "contrastive_loss"):
        ours, theirs = (each(*student, *teacher, output_dict=True)[name] for each in (loss, DistillClipLoss()))
        assert_all_close(value_and_gradients(ours, *student), value_and_gradients(theirs, *student), atol)
    torch.testing.assert_close(loss(*student, *teacher), sum(loss(*student, *teacher, output_dict=True).values()))


@given(lengths, memories, st.integers(0, 9))
def test_many_segments_equal_the_equation(lengths, block_memory, seed):
    student, teacher = taught(sum(lengths), 5, seed)
    loss = MCLDistillLoss(MCLClipLoss(), 0.3, block_memory=block_memory)
    ours = loss(*student, *teacher, segments=SegmentLayout(tuple(lengths)))
    labels = labels_of(lengths)
    slow = distil_by_loops(*student, *teacher, labels) + 0.3 * clip_by_loops(*student, labels)
    assert_all_close(value_and_gradients(ours, *student), value_and_gradients(slow, *student))


def test_a_teacher_gets_no_gradient_and_a_student_like_it_is_left_alone():
    _, teacher = taught(12, 8, 3)
    copy = [each.detach().clone().requires_grad_() for each in teacher]
    loss = MCLDistillLoss(MCLClipLoss(), 0.0)(*copy, *teacher, segments=SegmentLayout((5, 1, 6)))
    loss.backward()
    assert all(each.grad is None for each in teacher)
    assert all(each.grad.abs().max() < 1e-12 for each in copy)
    assert loss > 0


def test_weight_zero_needs_no_contrastive_loss_and_a_sigmoid_one_gets_its_bias():
    student, teacher = taught(8, 4, 5)
    alone = MCLDistillLoss(None, 0.0)(*student, *teacher)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    both = MCLDistillLoss(MCLSigLipLoss(), 2.0)(*student, *teacher, logit_bias=bias)
    torch.testing.assert_close(both, alone + 2 * MCLSigLipLoss()(*student, logit_bias=bias))


def test_features_that_do_not_fit_are_refused():
    student, teacher = taught(8, 4, 6)
    _, other = taught(6, 4, 6)
    loss = MCLDistillLoss(MCLClipLoss())
    with pytest.raises(UserError, match="the teacher gave 6 features for 8 samples"):
        loss(*student, *other)
    with pytest.raises(UserError, match="the teacher's image and text features"):
        loss(*student, teacher[0], teacher[1][:, :4], 1.0)
    with pytest.raises(UserError, match="the segment layout has 9 positions"):
        loss(*student, *teacher, segments=SegmentLayout((4, 5)))
