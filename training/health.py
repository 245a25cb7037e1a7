"""Losses that are no numbers: found soon, named exactly, never saved."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from mcl_clip.artifacts import write_json

STATUS = 3  # of a worker that stopped on a loss that is no number
MOST_KEPT = 256  # steps whose keys are kept where log lines are rarer


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the batch's keys."""


class LossGuard:
    """Checks the losses of the steps since the last log line, all at once: to read one is to wait for the device."""

    def __init__(self, directory: Path, stage: int, rank: int) -> None:
        self._directory, self._stage, self._rank = directory, stage, rank
        self._pending: list[tuple[int, torch.Tensor, Sequence[str]]] = []
        self.values: list[float] = []

    def add(self, step: int, loss: torch.Tensor, keys: Sequence[str]) -> None:
        """Note the (detached) loss of a step and the keys of this rank's samples in it."""
        self._pending.append((step, loss, keys))
        if len(self._pending) >= MOST_KEPT:
            self.check()

    def check(self) -> None:
        """Look at every loss noted so far, moving them to `values`; raises `NonFiniteLoss`."""
        if not self._pending:
            return
        losses = torch.stack([loss for _, loss, _ in self._pending])
        finite = torch.isfinite(losses).tolist()
        if not all(finite):
            self._stop(*self._pending[finite.index(False)])
        self.values += losses.tolist()
        self._pending.clear()

    def take(self) -> list[float]:
        """The losses since the last call, checked."""
        self.check()
        values, self.values = self.values, []
        return values

    def _stop(self, step: int, loss: torch.Tensor, keys: Sequence[str]) -> None:
        path = self._directory / f"non_finite_rank_{self._rank}.json"
        write_json(path, {"stage": self._stage, "step": step, "loss": str(loss.item()), "keys": list(keys)})
        shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
        raise NonFiniteLoss(
            f"stage {self._stage}, step {step}: the loss is {loss.item()}; keys of the batch: {shown} (all in {path}); "
            "look at these samples, lower --lr, or set --grad-clip-norm; "
            "the same command goes on from the last checkpoint"
        )


def check_weights(model: nn.Module, stage: int, step: int) -> None:
    """Raise `NonFiniteLoss` when a weight is no number, which the next loss would tell after it was saved."""
    if not torch.stack([torch.isfinite(tensor).all() for tensor in model.parameters()]).all():
        raise NonFiniteLoss(
            f"stage {stage}, step {step}: the update made weights that are no numbers; "
            "lower --lr or set --grad-clip-norm; the same command goes on from the last checkpoint"
        )
