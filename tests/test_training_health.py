"""Losses that are no numbers, found without reading the device in every step."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny_runs import command, metrics
from training import health
from training.arrows.stage import StageTraining
from training.health import LossGuard, NonFiniteLoss
from training.main import main
from training.step import TrainingStep
from training.window import Window


class Reads(TorchDispatchMode):
    """Names of the operations that an accelerator would be waited for in, but for an optimizer's count of steps."""

    def __init__(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        super().__init__()
        self.optimizer, self.found = optimizer, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"):
            states = self.optimizer.state.values() if self.optimizer else ()
            # It lives on the host, whatever the device.
            if not any(args[0] is state.get("step") for state in states):
                self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "flags",
    [
        ("--precision", "amp_bf16", "--grad-clip-norm", "1.0", "--mcl-mask-identical"),
        ("--accum-freq", "2", "--batch-size", "8", "--siglip"),
    ],
    ids=["clipped", "accumulated"],
)
def test_nothing_is_read_between_log_lines(tmp_path, monkeypatch, flags):
    reads = {}

    def watch(owner, method):
        original = getattr(owner, method)

        def watched(self, *args):
            with Reads(getattr(self, "optimizer", None)) as mode:
                result = original(self, *args)
            reads.setdefault(method, []).append(mode.found)
            return result

        monkeypatch.setattr(owner, method, watched)

    for owner, method in ((TrainingStep, "__call__"), (LossGuard, "add"), (Window, "add"), (StageTraining, "_report")):
        watch(owner, method)
    assert main(command(tmp_path, "--epochs", "1", "--log-every-n-steps", "5", *flags)) == 0
    steps = len(reads["__call__"])
    assert steps == len(reads["add"]) / 2 > len(metrics(tmp_path)) == len(reads["_report"]) > 1
    assert not any(reads["__call__"] + reads["add"])
    assert all(reads["_report"])


def noted(tmp_path, values):
    guard = LossGuard(tmp_path, stage=2, rank=1)
    for step, value in enumerate(values, 40):
        guard.add(step, torch.tensor(value), [f"key {step}"])
    return guard


def test_losses_are_taken_once(tmp_path):
    guard = noted(tmp_path, [1.0, 2.0])
    assert guard.take() == [1.0, 2.0] and guard.take() == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_bad_step_is_named_however_late_it_is_found(tmp_path, bad):
    guard = noted(tmp_path, [1.0, bad, 2.0, bad])
    with pytest.raises(NonFiniteLoss, match=rf"stage 2, step 41: the loss is {bad}; keys of the batch: key 41 "):
        guard.check()
    written = json.loads((tmp_path / "non_finite_rank_1.json").read_text())
    assert written == {"stage": 2, "step": 41, "loss": str(bad), "keys": ["key 41"]}


def test_keys_are_kept_of_few_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "MOST_KEPT", 3)
    guard = noted(tmp_path, [1.0, 2.0])
    guard.add(42, torch.tensor(3.0), [])
    assert guard.values == [1.0, 2.0, 3.0]
