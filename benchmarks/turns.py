"""Batches in the shape that our stage training asks of a loader, for training loops that take turns."""

import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mcl_clip.loading.faults import Faults
from mcl_clip.loading.normalize import Normalize
from mcl_clip.plan.epochs import EpochPlans
from mcl_clip.plan.policy import Policy

WARM_STEPS = 3


class Timed:
    """Batches, and when each was handed over."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches
        self.times: list[float] = []

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.times.append(time.perf_counter())
            yield batch

    def rate(self, batch_size: int, warm: int = WARM_STEPS) -> float:
        """Samples a second from the first step after `warm` ones to the last."""
        return batch_size * (len(self.times) - 1 - warm) / (self.times[-1] - self.times[warm])


class InTurn(Timed):
    """The same with the plan of `steps` batches of one pseudo-label, and `normalize`, as a loader has them."""

    def __init__(
        self, batches: Iterable[Any], steps: int, batch_size: int, normalize: Normalize, text_vectors: bool = False
    ) -> None:
        super().__init__(batches)
        self.steps, self.normalize, self.text_vectors = steps, normalize, text_vectors
        count = np.array([steps * batch_size])
        self.plans = EpochPlans([""], np.array([0]), count, 0, 0, batch_size, Policy(min_segment=batch_size))
        self.faults = Faults(0.001, int(count[0]), 1)

    def __len__(self) -> int:
        return self.steps

    def set_epoch(self, epoch: int) -> None:
        """There is one."""


def ratio(name: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """The median of the ratios of each round, and all of them."""
    by_round = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {name: round(statistics.median(by_round), 3), f"{name}_by_round": [round(value, 3) for value in by_round]}
