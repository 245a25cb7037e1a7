"""What is measured between two log lines."""

import contextlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch

from mcl_clip.loading.micro_batch import MicroBatch
from mcl_clip.loss.statistics import identical_caption_share, negatives
from training.ranks import Ranks
from training.recipe import Recipe
from training.step import StepResult


class Window:
    """Sums over the steps since the last line; the first and the last step of the stage always have one."""

    def __init__(
        self, recipe: Recipe, stage: int, steps_per_epoch: int, total: int, ranks: Ranks, first_step: int
    ) -> None:
        self._every = max(recipe.reporting.log_every_n_steps, 1)
        self._global_batch = recipe.data.global_batch
        self._stage, self._steps_per_epoch, self._total, self._ranks = stage, steps_per_epoch, total, ranks
        self._begun, self._first_step = time.monotonic(), first_step
        self._epochs = total // steps_per_epoch
        self._reset()

    def _reset(self) -> None:
        self._since = time.monotonic()
        self._steps = 0
        self._waited = 0.0
        self._negatives: list[dict[str, float]] = []
        self._batches: Sequence[MicroBatch] = ()

    def wait_begins(self) -> None:
        """The loader is asked for the next global batch."""
        self._asked = time.monotonic()

    def wait_ends(self) -> None:
        """It has come."""
        self._waited += time.monotonic() - self._asked

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside counts neither for the rate nor for the time left."""
        begun = time.monotonic()
        yield
        gone = time.monotonic() - begun
        self._since += gone
        self._begun += gone

    def add(self, batches: Sequence[MicroBatch]) -> None:
        """Count one step."""
        self._steps += 1
        self._negatives.append(negatives(batches[0].layout))
        self._batches = batches

    def is_due(self, step: int) -> bool:
        """As in open_clip: every n steps of an epoch, and at its end."""
        return step % self._steps_per_epoch % self._every == 0 or (step + 1) % self._steps_per_epoch == 0

    def close(self, epoch: int, step: int, losses: Sequence[float], result: StepResult) -> dict[str, Any]:
        """The row of metrics.jsonl for the steps since the last: seconds, samples of all ranks, means over steps."""
        numbers = {name: value.mean().item() for name, value in result.numbers.items()}
        now = time.monotonic()
        per_step = (now - self._begun) / (step + 1 - self._first_step)
        row = {
            "stage": self._stage,
            "epoch": epoch,
            "step": step,
            "loss": losses[-1],
            "loss_mean": sum(losses) / len(losses),
            "negatives_min": min(each["negatives_min"] for each in self._negatives),
            "negatives_mean": sum(each["negatives_mean"] for each in self._negatives) / self._steps,
            "share_without_negatives": sum(each["share_without_negatives"] for each in self._negatives) / self._steps,
            "segments_mean": sum(each["segments"] for each in self._negatives) / self._steps,
            "samples_per_s": self._steps * self._global_batch / (now - self._since),
            "data_wait_s": self._waited / self._steps,
            "data_wait_share": self._waited / (now - self._since),
            "lr": result.lr,
            **numbers,
            "memory_gib": _memory(self._ranks.device),
            "seconds_left": (self._total - step - 1) * per_step,
        }
        texts = torch.cat([batch.texts for batch in self._batches])
        if texts.shape[1]:
            row["identical_caption_share"] = identical_caption_share(
                self._batches[0].layout, texts, self._ranks.world_size
            )
        self._reset()
        return row

    def line(self, row: dict[str, Any]) -> str:
        """The same for a reader."""
        scale = f"logit scale {row['logit_scale']:.2f}  " if "logit_scale" in row else ""
        return (
            f"stage {self._stage} epoch {row['epoch'] + 1}/{self._epochs} step {row['step'] + 1}/{self._total}  "
            f"loss {row['loss']:.4f} ({row['loss_mean']:.4f})  negatives {row['negatives_mean']:.1f}  "
            f"{row['samples_per_s']:.0f} samples/s  data wait {row['data_wait_share']:.0%}  lr {row['lr']:.3g}  "
            f"{scale}memory {row['memory_gib']:.2f} GiB  "
            f"left {timedelta(seconds=round(row['seconds_left']))}"
        )


def _memory(device: torch.device) -> float:
    """Most memory used so far, GiB: of the device, or of this process on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
