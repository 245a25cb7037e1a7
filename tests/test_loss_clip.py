"""The softmax form in one process, against open_clip and against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mcl_clip.loss import MCLClipLoss, MCLSigLipLoss, loss_by_label
from mcl_clip.plan.segments import SegmentLayout
from tests.slow_losses import clip_by_loops, features, labels_of, value_and_gradients

# Any, and such as are padded to one length.
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5) | st.lists(st.integers(4, 6), min_size=1, max_size=6)
# One row at a time, a few rows, all at once.
memories = st.sampled_from([8, 8 * 6 * 2, 1 << 20])


def scale_of(value: float, dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = ()) -> torch.Tensor:
    return torch.full(shape, value, dtype=dtype, requires_grad=True)


def assert_all_close(ours, theirs, atol):
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference.to(mine.dtype), atol=atol, rtol=0)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("value", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("block_memory", [8 * 33 * 5, 1 << 26])
def test_one_segment_equals_open_clip(dtype, atol, value, block_memory):
    image, text = features(33, 16, 0, dtype)
    scale = scale_of(value, dtype)
    ours = value_and_gradients(MCLClipLoss(block_memory=block_memory)(image, text, scale), image, text, scale)
    theirs = value_and_gradients(ClipLoss()(image, text, scale), image, text, scale)
    assert_all_close(ours, theirs, atol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_off_by_its_rounding_and_closer_than_open_clip(dtype):
    image, text = features(64, 32, 1, dtype)
    scale = scale_of(20.0, torch.float32)
    exact = [each.detach().double().requires_grad_() for each in (image, text, scale)]
    truth = value_and_gradients(ClipLoss()(*exact), *exact)
    ours = value_and_gradients(MCLClipLoss()(image, text, scale), image, text, scale)
    theirs = value_and_gradients(ClipLoss()(image, text, scale.to(dtype)), image, text, scale)
    assert ours[0].dtype == torch.float32 and ours[1].dtype == ours[2].dtype == dtype
    rounding = torch.finfo(dtype).eps
    for mine, reference in zip(ours, truth, strict=True):
        assert (mine - reference).abs().max() <= rounding * reference.abs().max()
    assert (ours[0] - truth[0]).abs() < (theirs[0] - truth[0]).abs()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_plain_number_is_a_scale_as_precise_as_the_features(dtype):
    image, text = features(9, 4, 0, dtype)
    torch.testing.assert_close(MCLClipLoss()(image, text, 9.1), ClipLoss()(image, text, 9.1), atol=0, rtol=1e-6)
    exact = ClipLoss()(image.double(), text.double(), 9.1)
    atol = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(MCLClipLoss()(image, text, 9.1).double(), exact, atol=atol, rtol=0)


@given(lengths, memories, st.integers(0, 9))
def test_many_segments_equal_the_equation(lengths, block_memory, seed):
    image, text = features(sum(lengths), 5, seed)
    scale = scale_of(7.0)
    loss = MCLClipLoss(block_memory=block_memory)
    ours = loss(image, text, scale, segments=SegmentLayout(tuple(lengths)))
    slow = clip_by_loops(image, text, scale, labels_of(lengths))
    inputs = image, text, scale
    assert_all_close(value_and_gradients(ours, *inputs), value_and_gradients(slow, *inputs), 1e-10)


def test_many_segments_are_the_weighted_mean_of_open_clip():
    layout = SegmentLayout((7, 1, 12, 12, 4))
    image, text = features(layout.size, 8, 2)
    scale = scale_of(30.0)
    parts = [
        (stop - start) / layout.size * ClipLoss()(image[start:stop], text[start:stop], scale)
        for start, stop in layout.bounds()
    ]
    ours = MCLClipLoss()(image, text, scale, segments=layout)
    inputs = image, text, scale
    assert_all_close(value_and_gradients(ours, *inputs), value_and_gradients(sum(parts), *inputs), 1e-12)


@given(lengths, st.integers(0, 9), st.randoms(use_true_random=False))
def test_labels_may_come_in_any_order_and_under_any_name(lengths, seed, random):
    image, text = features(sum(lengths), 5, seed)
    scale = scale_of(5.0)
    inputs = image, text, scale
    sorted_loss = MCLClipLoss()(image, text, scale, segments=SegmentLayout(tuple(lengths)))
    order = random.sample(range(sum(lengths)), sum(lengths))
    names = random.sample(range(-50, 50), len(lengths))
    labels = torch.tensor([names[label] for label in labels_of(lengths)])
    shuffled = loss_by_label(image[order], text[order], labels[order], scale)
    assert_all_close(value_and_gradients(shuffled, *inputs), value_and_gradients(sorted_loss, *inputs), 1e-12)


def test_labels_of_another_length_are_refused():
    image, text = features(4, 3, 0)
    with pytest.raises(ValueError, match=r"\(3,\).*\(4, 3\)"):
        loss_by_label(image, text, torch.zeros(3), 1.0)


@pytest.mark.parametrize("value", [1.0, 100.0])
def test_lone_samples_have_no_loss_and_no_gradient(value):
    image, text = features(4, 6, 3, torch.float32)
    scale = scale_of(value, torch.float32)
    loss = MCLClipLoss()(image, text, scale, segments=SegmentLayout((1, 1, 1, 1)))
    for each in value_and_gradients(loss, image, text, scale):
        assert not each.any()
    mixed = value_and_gradients(MCLClipLoss()(image, text, scale, segments=SegmentLayout((1, 3))), image, text, scale)
    assert not mixed[1][0].any() and not mixed[2][0].any() and mixed[1][1:].any()


@given(lengths, memories, st.integers(0, 9), st.data())
def test_identical_captions_are_no_negatives(lengths, block_memory, seed, data):
    size = sum(lengths)
    captions = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    text_ids = torch.tensor([[49406, 7 + 2**20 * caption, 3, 0] for caption in captions])
    image, text = features(size, 5, seed)
    scale = scale_of(7.0)
    inputs = image, text, scale
    loss = MCLClipLoss(mask_identical=True, block_memory=block_memory)
    ours = loss(image, text, scale, segments=SegmentLayout(tuple(lengths)), text_ids=text_ids)
    slow = clip_by_loops(image, text, scale, labels_of(lengths), captions)
    assert_all_close(value_and_gradients(ours, *inputs), value_and_gradients(slow, *inputs), 1e-10)


@pytest.mark.parametrize("text_ids", [None, torch.zeros(3, 5)])
def test_masking_needs_the_captions(text_ids):
    image, text = features(4, 3, 0)
    with pytest.raises(ValueError, match=r"text_ids of shape \(4, context\)"):
        MCLClipLoss(mask_identical=True)(image, text, 1.0, text_ids=text_ids)


@pytest.mark.parametrize("size", [9, 11])
def test_a_layout_that_does_not_fit_is_refused_with_both_sizes(size):
    image, text = features(10, 3, 0)
    with pytest.raises(ValueError, match=rf"{size} positions in 2 segments.*\(10, 3\)"):
        MCLClipLoss()(image, text, 1.0, segments=SegmentLayout((4, size - 4)))


def test_features_of_two_shapes_are_refused_with_both():
    image, text = features(10, 3, 0)
    with pytest.raises(ValueError, match=r"\(10, 3\).*\(9, 3\)"):
        MCLClipLoss()(image, text[:9], 1.0)


@pytest.mark.parametrize("call", [MCLClipLoss(), lambda *inputs: loss_by_label(*inputs[:2], torch.zeros(0), 1.0)])
def test_a_batch_of_no_samples_is_refused(call):
    with pytest.raises(ValueError, match="at least one sample"):
        call(torch.zeros(0, 3), torch.zeros(0, 3), 1.0)


def test_a_call_leaves_no_layout_behind():
    image, text = features(6, 4, 5)
    loss = MCLClipLoss()
    assert not torch.equal(loss(image, text, 9.0, segments=SegmentLayout((2, 4))), loss(image, text, 9.0))
    torch.testing.assert_close(loss(image, text, 9.0, output_dict=True), ClipLoss()(image, text, 9.0, output_dict=True))


def test_a_bias_cancels_but_takes_part():
    image, text = features(6, 4, 5)
    bias = scale_of(-10.0)
    loss = MCLClipLoss()(image, text, 9.0, bias)
    torch.testing.assert_close(loss, ClipLoss()(image, text, 9.0, bias))
    assert torch.autograd.grad(loss, bias)[0] == 0


def test_a_scale_of_one_element_gets_a_gradient_of_its_shape():
    image, text = features(6, 4, 5)
    scale = scale_of(9.0, shape=(1,))
    gradient = torch.autograd.grad(MCLClipLoss()(image, text, scale), scale)[0]
    expected = torch.autograd.grad(ClipLoss()(image, text, scale).sum(), scale)[0]
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("learned", ["image", "text", "scale"])
def test_gradients_that_nobody_asked_for_change_nothing(learned):
    image, text = features(12, 4, 5)
    everything = {"image": image, "text": text, "scale": scale_of(9.0)}
    layout = SegmentLayout((5, 7))

    def gradient(inputs):
        loss = MCLClipLoss(block_memory=8 * 7 * 2)(*inputs.values(), segments=layout)
        return torch.autograd.grad(loss, inputs[learned])[0]

    alone = {name: each if name == learned else each.detach() for name, each in everything.items()}
    torch.testing.assert_close(gradient(alone), gradient(everything), atol=1e-14, rtol=0)


def test_two_backward_passes_add_up():
    image, text = features(8, 4, 5)
    loss = MCLClipLoss()(image, text, 9.0)
    loss.backward(retain_graph=True)
    once = image.grad.clone()
    loss.backward()
    torch.testing.assert_close(image.grad, 2 * once)


@pytest.mark.parametrize("mask", [False, True], ids=["", "captions"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_unequal_segments_in_every_precision_and_stride(dtype, mask):
    lengths = (9, 1, 8, 10, 1, 3, 9, 8)
    image, text = features(sum(lengths), 6, 4, dtype)
    # Columns of a wider matrix, and a transposed one.
    strided = torch.cat((image, image), 1)[:, 6:], text.T.contiguous().T
    assert not any(each.is_contiguous() for each in strided)
    captions = [i % 5 for i in range(len(image))]
    scale = scale_of(8.0)
    ours = MCLClipLoss(mask_identical=mask)(
        *strided, scale, segments=SegmentLayout(lengths), text_ids=torch.tensor(captions)[:, None]
    )
    exact = [each.detach().double().requires_grad_() for each in (image, text, scale)]
    slow = clip_by_loops(*exact, labels_of(lengths), captions if mask else None)
    found = value_and_gradients(ours, image, text, scale)
    assert [each.dtype for each in found[1:]] == [dtype, dtype, torch.float64]
    rounding = 1e-14 if dtype == torch.float64 else max(torch.finfo(dtype).eps, 2e-6)
    for mine, reference in zip(found, value_and_gradients(slow, *exact), strict=True):
        assert (mine - reference).abs().max() <= rounding * reference.abs().max()


class Operations(TorchDispatchMode):
    """How many there were."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("form", "bias"), [(MCLClipLoss, ()), (MCLSigLipLoss, (-10.0,))], ids=["softmax", "sigmoid"])
def test_operations_are_few_for_many_unequal_segments(form, bias):
    image, text = features(8192, 512, 5, torch.float32)
    uneven = SegmentLayout((17, 16, 15, 16) * 128)
    with Operations() as operations:
        form()(image, text, 9.0, *bias, segments=uneven).backward()
    assert operations.count <= 600


class LargestTensor(TorchDispatchMode):
    """The most elements that any operation gave out."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return result


def test_no_tensor_exceeds_the_memory_budget():
    image, text = features(300, 4, 5, torch.float32)
    with LargestTensor() as ours:
        MCLClipLoss(block_memory=4 * 300 * 20)(image, text, 9.0).backward()
    assert ours.elements == 300 * 20
    with LargestTensor() as ours:
        MCLClipLoss()(image, text, 9.0, segments=SegmentLayout((100, 150, 50))).backward()
    assert ours.elements == 150 * 150
    with LargestTensor() as theirs:
        ClipLoss()(image, text, 9.0).backward()
    assert theirs.elements == 300 * 300


@pytest.mark.parametrize(("form", "bias"), [(MCLClipLoss, ()), (MCLSigLipLoss, (-10.0,))], ids=["softmax", "sigmoid"])
def test_no_value_is_read_from_the_device(form, bias):
    with FakeTensorMode():
        image, text = torch.randn(24, 8, requires_grad=True), torch.randn(24, 8, requires_grad=True)
        scale = torch.full((), 10.0, requires_grad=True)
        text_ids = torch.randint(0, 9, (24, 7))
        layout = SegmentLayout((4, 5, 1, 14))
        loss = form(mask_identical=True, block_memory=4 * 15 * 2)
        loss(image, text, scale, *bias, segments=layout, text_ids=text_ids).backward()
    assert image.grad.shape == (24, 8) and scale.grad.shape == ()
