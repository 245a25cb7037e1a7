"""The sigmoid form in one process, against open_clip and against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.loss import SigLipLoss
from torch.nn import functional as F

from mcl_clip.loss import MCLSigLipLoss, loss_by_label
from mcl_clip.plan.segments import SegmentLayout
from tests.slow_losses import features, labels_of, siglip_by_loops, value_and_gradients
from tests.test_loss_clip import assert_all_close, lengths, memories, scale_of


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("value", "offset"), [(10.0, -10.0), (1.0, 0.0), (100.0, -16.0), (60.0, 30.0)])
@pytest.mark.parametrize("block_memory", [8 * 33 * 5, 1 << 26])
def test_one_segment_equals_open_clip(dtype, atol, value, offset, block_memory):
    image, text = features(33, 16, 0, dtype)
    inputs = image, text, scale_of(value, dtype), scale_of(offset, dtype)
    ours = value_and_gradients(MCLSigLipLoss(block_memory=block_memory)(*inputs), *inputs)
    theirs = value_and_gradients(SigLipLoss()(*inputs), *inputs)
    # Sums over hundreds of pairs an anchor: fp32 is compared relative to their size.
    for mine, reference in zip(ours, theirs, strict=True):
        assert (mine - reference).abs().max() <= atol * max(1, reference.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_off_by_its_rounding(dtype):
    image, text = features(64, 32, 1, dtype)
    inputs = image, text, scale_of(10.0, torch.float32), scale_of(-10.0, torch.float32)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    truth = value_and_gradients(SigLipLoss()(*exact), *exact)
    for mine, reference in zip(value_and_gradients(MCLSigLipLoss()(*inputs), *inputs), truth, strict=True):
        assert (mine - reference).abs().max() <= torch.finfo(dtype).eps * reference.abs().max()


@given(lengths, memories, st.integers(0, 9), st.booleans(), st.data())
def test_many_segments_equal_the_equation(lengths, block_memory, seed, mask, data):
    size = sum(lengths)
    captions = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    image, text = features(size, 5, seed)
    inputs = image, text, scale_of(7.0), scale_of(-4.0)
    ours = MCLSigLipLoss(mask_identical=mask, block_memory=block_memory)(
        *inputs, segments=SegmentLayout(tuple(lengths)), text_ids=torch.tensor(captions)[:, None]
    )
    slow = siglip_by_loops(*inputs, labels_of(lengths), captions if mask else None)
    assert_all_close(value_and_gradients(ours, *inputs), value_and_gradients(slow, *inputs), 1e-10)


def test_many_segments_are_the_weighted_mean_of_open_clip():
    layout = SegmentLayout((7, 1, 12, 12, 4))
    image, text = features(layout.size, 8, 2)
    scale, bias = scale_of(30.0), scale_of(-5.0)
    parts = [
        (stop - start) / layout.size * SigLipLoss()(image[start:stop], text[start:stop], scale, bias)
        for start, stop in layout.bounds()
    ]
    ours = MCLSigLipLoss()(image, text, scale, bias, segments=layout)
    inputs = image, text, scale, bias
    assert_all_close(value_and_gradients(ours, *inputs), value_and_gradients(sum(parts), *inputs), 1e-12)


def test_labels_may_come_in_any_order():
    image, text = features(9, 4, 6)
    inputs = image, text, scale_of(10.0), scale_of(-3.0)
    labels = torch.tensor([5, 0, 5, 2, 2, 0, 5, 9, 0])
    ours = loss_by_label(image, text, labels, *inputs[2:], loss=MCLSigLipLoss())
    slow = siglip_by_loops(*inputs, labels.tolist())
    assert_all_close(value_and_gradients(ours, *inputs), value_and_gradients(slow, *inputs), 1e-12)


def test_lone_samples_keep_their_positive_term():
    image, text = features(4, 6, 3)
    inputs = image, text, scale_of(12.0), scale_of(-8.0)
    ours = MCLSigLipLoss()(*inputs, segments=SegmentLayout((1, 1, 1, 1)))
    positives = -F.logsigmoid(inputs[2] * (image * text).sum(1) + inputs[3]).mean()
    assert_all_close(value_and_gradients(ours, *inputs), value_and_gradients(positives, *inputs), 1e-12)


def test_without_a_bias_it_is_zero():
    image, text = features(6, 4, 5)
    torch.testing.assert_close(MCLSigLipLoss()(image, text, 9.0), MCLSigLipLoss()(image, text, 9.0, 0.0))


def test_a_layout_that_does_not_fit_is_refused_with_both_sizes():
    image, text = features(10, 3, 0)
    with pytest.raises(ValueError, match=r"9 positions in 2 segments.*\(10, 3\)"):
        MCLSigLipLoss()(image, text, 1.0, 0.0, segments=SegmentLayout((4, 5)))
