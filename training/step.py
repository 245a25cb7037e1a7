"""One optimizer step: forward, loss over the global batch, backward, update."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from mcl_clip.loading.micro_batch import MicroBatch
from mcl_clip.loss.accumulation import accumulated_backward
from mcl_clip.loss.missing import loss_without
from mcl_clip.openclip.precision import get_autocast
from mcl_clip.seeds import words
from training.objectives.objective import Learner


@dataclass(frozen=True)
class StepResult:
    """The loss before the update, the learner's numbers after it, both still on the device; and the learning rate."""

    loss: torch.Tensor
    numbers: dict[str, torch.Tensor]
    lr: float


class TrainingStep:
    """Takes the micro-batches of one global batch, updates the model, and follows open_clip_train's arithmetic.

    model: what is called and whose backward averages over ranks (DDP, compiled): the learner's; core: what is trained
    inside it; prepare: makes a micro-batch's images, uint8 until then, into what the model takes. Random numbers of
    the step (dropout, patch dropout) come from (seed, stage, step, rank), so a resumed run needs no past state.
    """

    def __init__(
        self,
        model: nn.Module,
        core: nn.Module,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        scaler: torch.amp.GradScaler | None,
        prepare: Callable[[torch.Tensor], torch.Tensor],
        *,
        precision: str,
        grad_clip_norm: float | None,
        entropy: tuple[int, ...],
        rank: int,
        device: torch.device,
    ) -> None:
        self.model, self.core, self.learner, self.loss = model, core, learner, learner.loss
        self.optimizer, self.schedule, self.scaler, self.prepare = optimizer, schedule, scaler, prepare
        self.grad_clip_norm = grad_clip_norm
        self.autocast = get_autocast(precision, device_type=device.type)
        self._entropy, self._rank, self._device = entropy, rank, device

    def __call__(self, step: int, batches: Sequence[MicroBatch]) -> StepResult:
        """Train on global batch `step` of the stage."""
        lr = self.schedule(step)
        self._reseed(step)
        self.optimizer.zero_grad()
        loss = self._backward_one(batches[0]) if len(batches) == 1 else self._backward_several(batches)
        self._update()
        return StepResult(loss, self.learner.updated(), lr)

    def _backward_one(self, batch: MicroBatch) -> torch.Tensor:
        with self.autocast():
            output = self.model(*self._inputs(batch))
            loss = self._loss([batch])(**output, segments=batch.layout, **_text_ids([batch]))
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        return loss.detach()

    def _backward_several(self, batches: Sequence[MicroBatch]) -> torch.Tensor:
        return accumulated_backward(
            self.model,
            self._loss(batches),
            _Inputs(batches, self._inputs),
            segments=batches[0].layout,
            **_text_ids(batches),
            autocast=self.autocast,
            scaler=self.scaler,
        )

    def _loss(self, batches: Sequence[MicroBatch]) -> Callable[..., torch.Tensor]:
        """The loss with what the learner gives it of all micro-batches, inside the caller's autocast."""
        targets = self._targets(batches)
        if missing := batches[0].missing:
            return partial(loss_without, missing, self.loss, **targets)
        return partial(self.loss, **targets)

    def _targets(self, batches: Sequence[MicroBatch]) -> dict[str, Any]:
        if self.learner.targets is None:
            return {}
        with self.autocast():
            parts = [self.learner.targets(self.prepare(batch.images), batch.texts) for batch in batches]
        joined = {name: [part[name] for part in parts] for name in parts[0]}
        return {name: torch.cat(each) if each[0].ndim else each[0] for name, each in joined.items()}

    def _inputs(self, batch: MicroBatch) -> tuple[torch.Tensor, ...]:
        images = self.prepare(batch.images)
        texts = batch.texts if batch.vectors is None else batch.vectors
        return (images, texts) if batch.texts.shape[1] else (images,)

    def _update(self) -> None:
        if self.scaler is None:
            self._clip()
            self.optimizer.step()
            return
        if self.grad_clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self._clip()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _clip(self) -> None:
        if self.grad_clip_norm is not None:
            nn.utils.clip_grad_norm_(self.core.parameters(), self.grad_clip_norm)

    def _reseed(self, step: int) -> None:
        """Sets the device's generator, and the CPU's, from which patch dropout draws on any device.

        Not by `torch.manual_seed`, which would queue a call for every absent accelerator.
        """
        seed = int(words(1, *self._entropy, step, self._rank)[0]) >> 1
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.default_generators[self._device.index or 0].manual_seed(seed)


class _Inputs(Sequence):
    """The inputs of micro-batches, made anew whenever one is asked for, so that what waits stays uint8."""

    def __init__(self, batches: Sequence[MicroBatch], make: Callable[[MicroBatch], tuple[torch.Tensor, ...]]) -> None:
        self._batches, self._make = batches, make

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: Any) -> Any:
        return self._make(self._batches[index])


def _text_ids(batches: Sequence[MicroBatch]) -> dict[str, torch.Tensor]:
    """The loss's argument, where captions are read."""
    texts = torch.cat([batch.texts for batch in batches])
    return {"text_ids": texts} if texts.shape[1] else {}
