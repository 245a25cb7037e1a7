"""Accumulated micro-batches against the same global batch at once."""

import contextlib
import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from mcl_clip.loss import MCLClipLoss, MCLNTXentLoss, MCLSigLipLoss
from mcl_clip.loss.accumulation import accumulated_backward
from mcl_clip.plan.segments import SegmentLayout
from tests.distributed import once, run_ranks
from tests.tiny_models import tiny_model

SIZE, LAYOUT = 16, SegmentLayout((5, 6, 1, 4))


class TwoTowers(nn.Module):
    """A model of open_clip's interface in fp64, with dropout and, if asked for, a bias."""

    def __init__(self, dropout: float = 0.0, bias: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.image, self.text = nn.Linear(6, 4).double(), nn.Linear(5, 4).double()
        self.dropout = nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.logit_bias = nn.Parameter(torch.tensor(-3.0, dtype=torch.float64)) if bias else None
        for tower in (self.image, self.text):
            nn.init.normal_(tower.weight, generator=generator)

    def forward(self, image, text):
        output = {
            "image_features": F.normalize(self.dropout(self.image(image)), dim=1),
            "text_features": F.normalize(self.dropout(self.text(text)), dim=1),
            "logit_scale": self.logit_scale.exp(),
        }
        return output if self.logit_bias is None else output | {"logit_bias": self.logit_bias}


def samples(size: int = SIZE, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, width, generator=generator, dtype=dtype) for width in (6, 5)]


def micro_batches(inputs, count: int):
    return list(zip(*(each.chunk(count) for each in inputs), strict=True))


def at_once(model, loss, inputs, **options):
    value = loss(**model(*inputs), **options)
    value.backward()
    return value.detach()


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def assert_equal_gradients(ours, theirs, atol=1e-12):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(torch.as_tensor(ours[name]), theirs[name], atol=atol, rtol=0, msg=name)


forms = pytest.mark.parametrize(
    ("loss", "bias"),
    [(MCLClipLoss(), False), (MCLClipLoss(), True), (MCLSigLipLoss(), True)],
    ids=["softmax", "softmax+bias", "sigmoid"],
)


@forms
@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_it_equals_the_batch_at_once(loss, bias, count):
    model = TwoTowers(bias=bias)
    reference = copy.deepcopy(model)
    expected = at_once(reference, loss, samples(), segments=LAYOUT)
    value = accumulated_backward(model, loss, micro_batches(samples(), count), segments=LAYOUT)
    torch.testing.assert_close(value, expected)
    assert not value.requires_grad
    assert_equal_gradients(gradients(model), gradients(reference))


def test_gradients_add_to_what_is_there():
    model = TwoTowers()
    for _ in range(2):
        accumulated_backward(model, MCLClipLoss(), micro_batches(samples(), 2), segments=LAYOUT)
    reference = TwoTowers()
    reference.load_state_dict(model.state_dict())
    at_once(reference, MCLClipLoss(), samples(), segments=LAYOUT)
    assert_equal_gradients(gradients(model), {name: 2 * each for name, each in gradients(reference).items()})


def test_weights_cast_by_the_first_pass_do_not_serve_the_second(monkeypatch):
    # Of the releases that are allowed, older ones keep such casts: there an open_clip model below gets no gradient.
    events = []
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: events.append("cleared"))
    model = TwoTowers()
    model.register_forward_pre_hook(lambda module, args: events.append(torch.is_grad_enabled()))
    with torch.autocast("cpu", torch.bfloat16):  # or the cache would be cleared at the end of another one
        accumulated_backward(model, MCLClipLoss(), micro_batches(samples(), 2), segments=LAYOUT)
        assert events == [False, False, "cleared", True, True]


@forms
@pytest.mark.parametrize("factor", [None, 1024.0], ids=["unscaled", "scaled"])
def test_random_state_is_replayed_and_left_as_after_one_pass(loss, bias, factor):
    model = TwoTowers(dropout=0.5, bias=bias)
    reference = copy.deepcopy(model)
    batches = micro_batches(samples(), 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        outputs = [reference(*batch) for batch in batches]
        drawn = torch.rand(3)
        merged = {
            name: torch.cat([each[name] for each in outputs]) if "features" in name else outputs[-1][name]
            for name in outputs[0]
        }
        loss(**merged, segments=LAYOUT).backward()
        torch.manual_seed(3)
        scaler = factor and torch.amp.GradScaler("cpu", init_scale=factor)
        accumulated_backward(model, loss, batches, segments=LAYOUT, scaler=scaler)
        assert torch.equal(torch.rand(3), drawn)
    unscaled = {name: each / (factor or 1) for name, each in gradients(model).items()}
    assert_equal_gradients(unscaled, gradients(reference))


def test_an_overflow_reaches_the_scaler():
    model = TwoTowers(bias=True)
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=float("inf"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    accumulated_backward(model, MCLSigLipLoss(), micro_batches(samples(), 4), segments=LAYOUT, scaler=scaler)
    scaler.step(optimizer)
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name]), name


@pytest.mark.parametrize("frozen", ["image", "text", "logit_scale"])
def test_locked_parts_stay_without_gradient(frozen):
    model = TwoTowers()
    getattr(model, frozen).requires_grad_(False)
    reference = copy.deepcopy(model)
    at_once(reference, MCLClipLoss(), samples(), segments=LAYOUT)
    accumulated_backward(model, MCLClipLoss(), micro_batches(samples(), 2), segments=LAYOUT)
    assert_equal_gradients(gradients(model), gradients(reference))
    assert not any(name.startswith(frozen) for name in gradients(model))


def test_identical_captions_are_masked_over_all_micro_batches():
    loss = MCLClipLoss(mask_identical=True)
    text_ids = torch.arange(SIZE)[:, None] % 3
    model, reference = TwoTowers(), TwoTowers()
    reference.load_state_dict(model.state_dict())
    expected = at_once(reference, loss, samples(), segments=LAYOUT, text_ids=text_ids)
    batches = micro_batches(samples(), 4)
    value = accumulated_backward(model, loss, batches, segments=LAYOUT, text_ids=text_ids)
    torch.testing.assert_close(value, expected)
    assert_equal_gradients(gradients(model), gradients(reference))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("within", [False, True], ids=["", "within the caller's"])
def test_an_open_clip_model(autocast, within):
    model = tiny_model("vit", 0, output_dict=True).train()
    reference = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 3, 32, 32, generator=generator)
    texts = torch.randint(1, 49000, (8, 16), generator=generator)
    texts[:, -1] = 49407
    layout = SegmentLayout((3, 5))
    context = functools.partial(torch.autocast, "cpu", autocast, enabled=autocast is not None)
    with context():
        value = MCLClipLoss()(**reference(images, texts), segments=layout)
    value.backward()
    batches = micro_batches((images, texts), 4)
    with context() if within else contextlib.nullcontext():
        accumulated_backward(model, MCLClipLoss(), batches, segments=layout, autocast=context)
    ours, theirs = gradients(model), gradients(reference)
    assert ours.keys() == theirs.keys()
    tolerance = 1e-4 if autocast is None else 0.05
    for name, reference_gradient in theirs.items():
        off = (ours[name] - reference_gradient).norm() / (reference_gradient.norm() + 1e-6)
        assert off < tolerance, (name, off)


def parallel(rank: int, world_size: int) -> dict:
    """Gradients after DDP's averaging, by form."""
    own = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    inputs = [each[own] for each in samples()]
    place = {"rank": rank, "world_size": world_size}
    results = {}
    for name, loss in LOSSES.items():
        for ddp in ({}, {"static_graph": True}):
            torch.manual_seed(0)  # the construction of towers draws
            model = DistributedDataParallel(TwoTowers(bias=name == "sigmoid"), **ddp)
            for step in range(2):
                model.zero_grad()
                value = accumulated_backward(model, loss(place), micro_batches(inputs, 2), segments=LAYOUT)
                found = {key: each.numpy().copy() for key, each in gradients(model.module).items()}
                results[name, bool(ddp), step] = value.item(), found
    return results


LOSSES = {
    "whole": lambda place: MCLClipLoss(gather_with_grad=True, **place),
    "local": lambda place: MCLClipLoss(gather_with_grad=True, local_loss=True, **place),
    "sigmoid": lambda place: MCLSigLipLoss(**place),
}


@once
def parallel_results():
    return run_ranks(parallel, 2)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("static_graph", [False, True])
@pytest.mark.parametrize("step", [0, 1])
def test_ranks_times_micro_batches_equal_one_process_at_once(name, static_graph, step):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TwoTowers(bias=name == "sigmoid")
    expected = at_once(model, LOSSES[name]({}), samples(), segments=LAYOUT)
    values, found = zip(*(rank[name, static_graph, step] for rank in parallel_results()), strict=True)
    assert sum(values) / 2 == pytest.approx(expected.item(), abs=1e-12)
    for rank in found:
        assert_equal_gradients(rank, gradients(model))


def test_running_statistics_see_every_sample_once():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).double()
    twin = copy.deepcopy(model)

    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = model

        def forward(self, images):
            return {"first_views": F.normalize(self.tower(images), dim=1), "second_views": F.normalize(images[:, :4])}

    parts = [(part,) for part in samples()[0].chunk(4)]
    accumulated_backward(Twins(), MCLNTXentLoss(), parts, segments=LAYOUT)
    for (part,) in parts:
        twin(part)
    assert model[1].num_batches_tracked == 4 and model[1].momentum == 0.1
    torch.testing.assert_close(model[1].running_mean, twin[1].running_mean)
    torch.testing.assert_close(model[1].running_var, twin[1].running_var)


@pytest.mark.parametrize("count", [2, 4])
def test_two_views_accumulate_to_the_gradient_of_all_at_once(count):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = TwoTowers(dropout=0.0).image

        def forward(self, images):
            return {name: F.normalize(self.tower(images + noise), dim=1) for name, noise in
                    (("first_views", 0.0), ("second_views", 0.1))}  # fmt: skip

    images = samples()[0]
    whole = Views()
    parts = copy.deepcopy(whole)
    expected = at_once(whole, MCLNTXentLoss(), [images], segments=LAYOUT)
    value = accumulated_backward(parts, MCLNTXentLoss(), [(each,) for each in images.chunk(count)], segments=LAYOUT)
    torch.testing.assert_close(value, expected)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(parts)[name], gradient)
