"""Under autocast and torch.compile."""

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn

from mcl_clip.loss import MCLClipLoss, MCLSigLipLoss, loss_by_label, pairs
from mcl_clip.plan.segments import SegmentLayout
from tests.slow_losses import features, value_and_gradients

FORMS = [(MCLClipLoss, ClipLoss, ()), (MCLSigLipLoss, SigLipLoss, (-10.0,))]
forms = pytest.mark.parametrize(("ours", "theirs", "bias"), FORMS, ids=["softmax", "sigmoid"])


@forms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_neither_logits_nor_log_sum_exp(ours, theirs, bias, dtype):
    image, text = features(40, 16, 1, torch.float32)
    inputs = image, text, *(torch.tensor(each, requires_grad=True) for each in (50.0, *bias))
    expected = value_and_gradients(theirs()(*inputs), *inputs)
    with torch.autocast("cpu", dtype):
        loss = ours(block_memory=4 * 40 * 9)(*inputs)
        rounded = theirs()(*inputs)
    found = value_and_gradients(loss, *inputs)
    for mine, reference in zip(found, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5)
    assert (rounded - expected[0]).abs() > 10 * (loss - expected[0]).abs()


@forms
def test_a_scaled_loss_saves_small_half_precision_gradients(ours, theirs, bias):
    image, text = features(2048, 8, 1, torch.float16)
    loss = ours()(image, text, 5.0, *bias)
    scaled = torch.autograd.grad(loss * 2.0**16, image)[0].float() / 2**16
    exact = image.detach().double().requires_grad_(), text.detach().double()
    expected = torch.autograd.grad(theirs()(*exact, torch.tensor(5.0), *map(torch.tensor, bias)), exact[0])[0]
    # Unscaled, the smallest half-precision number is 6e-8: 50 times the absolute tolerance.
    torch.testing.assert_close(scaled.double(), expected, atol=1e-9, rtol=2e-3)


@pytest.mark.parametrize("block_memory", [1 << 26, 4 * 8 * 3], ids=["at once", "in strips"])
def test_an_easy_anchor_keeps_the_digits_of_its_loss(block_memory):
    # Logits of 100 and 87.5, exact in fp32; a loss of 3e-5, half of it lost where a log-sum-exp near 100 is rounded.
    image = torch.eye(8).requires_grad_()
    text = torch.full((8, 8), 0.875).fill_diagonal_(1).requires_grad_()
    scale = torch.tensor(100.0, requires_grad=True)
    inputs = image, text, scale
    exact = [each.detach().double().requires_grad_() for each in inputs]
    expected = value_and_gradients(ClipLoss()(*exact), *exact)
    found = value_and_gradients(MCLClipLoss(block_memory=block_memory)(*inputs), *inputs)
    for mine, reference in zip(found, expected, strict=True):
        assert (mine - reference).abs().max() <= 0.1 * reference.abs().max()


def allow_by(name: str, value):
    """One of the ways in which training allows TF32."""
    if name == "function":
        torch.set_float32_matmul_precision(value)
    else:
        setattr(torch.backends.cuda.matmul, name, value)


@forms
@pytest.mark.parametrize(
    ("way", "allowed", "default"),
    [("allow_tf32", True, False), ("function", "high", "highest"), ("fp32_precision", "tf32", "ieee")],
)
def test_tf32_is_not_inherited(ours, theirs, bias, way, allowed, default, monkeypatch):
    flag = "fp32_precision" if hasattr(torch.backends.cuda.matmul, "fp32_precision") else "allow_tf32"
    if way == "fp32_precision" != flag:
        pytest.skip("since torch 2.9")
    image, text = features(6, 4, 3, torch.float32)
    seen = []

    def product(left, right):
        seen.append(getattr(torch.backends.cuda.matmul, flag))
        return torch.bmm(left, right)

    def failing(left, right):
        raise MemoryError

    allow_by(way, allowed)
    try:
        inherited = getattr(torch.backends.cuda.matmul, flag)
        monkeypatch.setattr(pairs, "_product", product)
        ours()(image, text, 9.0, *bias)
        assert getattr(torch.backends.cuda.matmul, flag) == inherited
        monkeypatch.setattr(pairs, "_product", failing)
        with pytest.raises(MemoryError):
            ours()(image, text, 9.0, *bias)
        assert getattr(torch.backends.cuda.matmul, flag) == inherited in ("tf32", True)
    finally:
        allow_by(way, default)
    assert seen and set(seen) <= {"ieee", False}


@forms
def test_compiled_steps_are_few_and_right_over_changing_layouts(ours, theirs, bias):
    torch._dynamo.reset()
    compilations = []

    def counting(graph, example_inputs):
        compilations.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example_inputs)

    tower, loss = nn.Linear(6, 4, dtype=torch.float64), ours()
    scale = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)

    def step(image, text, segments):
        return loss(tower(image), tower(text) * 1.0, scale * 1.0, *bias, segments=segments) * 1.0

    compiled = torch.compile(step, backend=counting)
    image, text = (each.detach() for each in features(24, 6, 3))
    inputs = *tower.parameters(), scale
    after_first = 0
    for cut in range(1, 24):
        layout = SegmentLayout((cut,) + (1,) * (24 - cut))
        found = value_and_gradients(compiled(image, text, layout), *inputs)
        for mine, reference in zip(found, value_and_gradients(step(image, text, layout), *inputs), strict=True):
            torch.testing.assert_close(mine, reference)
        after_first = after_first or len(compilations)
    assert 0 < len(compilations) <= after_first + 1
    torch._dynamo.reset()


@forms
def test_a_compiled_loss_is_the_loss(ours, theirs, bias):
    image, text = features(10, 4, 3)
    compiled = torch.compile(ours(), backend="aot_eager")
    for lengths in ((10,), (3, 7), (5, 5), (1, 2, 7)):
        layout = SegmentLayout(lengths)
        torch.testing.assert_close(
            compiled(image, text, 9.0, *bias, segments=layout),
            ours()(image, text, 9.0, *bias, segments=layout),
        )


def test_a_compiled_step_may_bring_labels():
    image, text = features(10, 4, 3)
    compiled = torch.compile(lambda *inputs: loss_by_label(*inputs, 9.0) * 2.0, backend="aot_eager")
    for labels in (torch.tensor([0, 1] * 5), torch.tensor([7] * 10), torch.arange(10)):
        torch.testing.assert_close(compiled(image, text, labels), 2 * loss_by_label(image, text, labels, 9.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@forms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_units_give_fp32_logits(ours, theirs, bias, dtype):
    image, text = (each.detach().to("cuda", dtype).requires_grad_() for each in features(300, 64, 1))
    layout = SegmentLayout((100, 97, 1, 102))
    exact = [each.detach().double().requires_grad_() for each in (image, text)]
    expected = value_and_gradients(ours()(*exact, 20.0, *bias, segments=layout), *exact)
    found = value_and_gradients(ours()(image, text, 20.0, *bias, segments=layout), image, text)
    for mine, reference in zip(found, expected, strict=True):
        assert (mine - reference).abs().max() <= 4 * torch.finfo(dtype).eps * reference.abs().max()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@forms
def test_the_device_is_never_waited_for(ours, theirs, bias):
    image, text = (each.detach().to("cuda").requires_grad_() for each in features(24, 8, 1, torch.float32))
    text_ids = torch.arange(24, device="cuda")[:, None] % 5
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = ours(mask_identical=True, block_memory=4 * 15 * 2)
        loss(image, text, 9.0, *bias, segments=SegmentLayout((4, 5, 1, 14)), text_ids=text_ids).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
