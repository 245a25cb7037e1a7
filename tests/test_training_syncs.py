"""Between log lines the host never waits for the device, and what waits for its turn stays uint8."""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mcl_clip.loading.micro_batch import MicroBatch
from mcl_clip.loading.normalize import Normalize
from mcl_clip.loss import MCLClipLoss
from mcl_clip.plan.segments import SegmentLayout
from tests.tiny_models import tiny_model
from tests.tiny_runs import command, metrics
from training.arithmetic import pixel_dtype
from training.arrows.stage import StageTraining
from training.main import main
from training.objectives.clip import ClipLearner
from training.step import TrainingStep

WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Waits(TorchDispatchMode):
    """Counts operations, and those of them that read a value back, outside of what is `aside`."""

    def __init__(self):
        super().__init__()
        self.operations, self.waits, self.counting = 0, [], True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.counting:
            self.operations += 1
            if function in WAITS:
                self.waits.append("".join(traceback.format_stack(limit=8)))
        return function(*args, **kwargs or {})

    def aside(self, method):
        def called(*args, **kwargs):
            self.counting = False
            try:
                return method(*args, **kwargs)
            finally:
                self.counting = True

        return called


@pytest.mark.parametrize(
    "flags",
    [
        ["--grad-clip-norm", "1"],
        ["--accum-freq", "2", "--batch-size", "8", "--precision", "amp_bf16", "--mcl-channels-last"],
        ["--siglip", "--mcl-mask-identical"],
    ],
    ids=["clipped", "accumulated", "siglip"],
)
def test_no_value_is_read_between_log_lines(tmp_path, monkeypatch, flags) -> None:
    waits = Waits()
    for name in ("_report", "_save", "_validate"):
        monkeypatch.setattr(StageTraining, name, waits.aside(getattr(StageTraining, name)))
    epoch = StageTraining._epoch

    def counted(*args):
        with waits:
            epoch(*args)

    monkeypatch.setattr(StageTraining, "_epoch", counted)
    assert main(command(tmp_path, *flags, "--log-every-n-steps", "100")) == 0
    assert len(metrics(tmp_path)) == 4, "the first step and the last of two epochs"
    waited = [stack for stack in waits.waits if "torch/utils/data/dataloader.py" not in stack]  # its seed, on the host
    assert waits.operations > 1000 and waited == []


def step_of(model, prepare, precision, loss=None) -> TrainingStep:
    return TrainingStep(
        model,
        model,
        ClipLearner(model, loss or MCLClipLoss()),
        torch.optim.SGD(model.parameters(), 0.1),
        lambda step: 0.1,
        None,
        prepare,
        precision=precision,
        grad_clip_norm=None,
        entropy=(0, 0),
        rank=0,
        device=torch.device("cpu"),
    )


def micro_batches(count: int) -> list[MicroBatch]:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=random)
    texts = torch.randint(1, 1000, (8, 16), generator=random)
    parts = zip(images.chunk(count), texts.chunk(count), strict=True)
    return [MicroBatch(*part, ["k"] * (8 // count), SegmentLayout.one(8), 0, at) for at, part in enumerate(parts)]


def model_of():
    model = tiny_model("vit", 0).train()
    model.output_dict = True
    return model


@pytest.mark.parametrize(("precision", "half"), [("amp", torch.float16), ("amp_bf16", torch.bfloat16)])
def test_pixels_in_the_first_layers_type_change_no_bit(precision, half) -> None:
    dtype = pixel_dtype(precision, torch.device("cpu"))
    assert dtype == half
    models = [model_of() for _ in range(2)]
    found = [
        step_of(model, Normalize((0.5,) * 3, (0.25,) * 3, kind), precision)(0, micro_batches(1)).loss
        for model, kind in zip(models, (torch.float32, dtype), strict=True)
    ]
    assert torch.equal(*found)
    assert all(map(torch.equal, models[0].parameters(), models[1].parameters()))


def test_accumulation_normalises_a_micro_batch_when_its_turn_comes() -> None:
    made = []

    def prepare(images):
        assert images.dtype == torch.uint8
        made.append(len(images))
        return Normalize((0.5,) * 3, (0.25,) * 3)(images)

    models = [model_of() for _ in range(2)]
    losses = [
        step_of(model, prepare, "fp32")(0, micro_batches(count)).loss
        for model, count in zip(models, (1, 4), strict=True)
    ]
    assert made == [8, *[2] * 8], "at once, and for each of four in each of two passes"
    torch.testing.assert_close(*losses)
    for mine, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
