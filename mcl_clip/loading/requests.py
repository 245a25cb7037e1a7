"""What a rank asks its readers for: pieces of micro-batches, epoch after epoch, so that no epoch's end drains them."""

import weakref
from collections.abc import Iterator
from typing import Protocol

from mcl_clip.loading.dataset import Request
from mcl_clip.plan.plan import Plan

PIECE = 64  # most samples of a request, and fewer where readers can share a micro-batch evenly
LEAST = 16  # samples that are worth a request
IN_FLIGHT = 768 << 20  # bytes of images that the readers of a rank may hold at once


def cut(batch_size: int, sample_bytes: int, workers: int) -> tuple[int, int]:
    """(samples of a request, requests ahead of each reader): two micro-batches ahead where they fit IN_FLIGHT."""
    workers = max(workers, 1)
    even = max(LEAST, -(-batch_size // workers))
    piece = max(1, min(PIECE, batch_size, even, IN_FLIGHT // (2 * workers * sample_bytes)))
    wanted = -(-2 * batch_size // (piece * workers))
    return piece, max(2, min(wanted, IN_FLIGHT // (workers * piece * sample_bytes)))


class Stream(Protocol):
    """Where a rank stands in the data, and what is where."""

    epoch: int
    step: int
    steps_per_epoch: int
    batch_size: int
    accum_freq: int
    rank: int
    piece: int

    def plan_of(self, step: int, epoch: int | None = None) -> tuple[int, Plan, int]:
        """As of `GlobalBatchLoader`."""


class Requests:
    """The requests of a rank from its stream's next step on, without end."""

    def __init__(self, stream: Stream):
        self._stream: Stream = weakref.proxy(stream)  # a cycle would keep the readers alive after the loader

    def __iter__(self) -> Iterator[Request]:
        epoch, step = self._stream.epoch, self._stream.step
        while True:
            yield from self._of_step(epoch, step)
            step += 1
            if step == self._stream.steps_per_epoch:
                epoch, step = epoch + 1, 0

    def _of_step(self, epoch: int, step: int) -> Iterator[Request]:
        stream = self._stream
        data_pass, plan, t = stream.plan_of(step, epoch)
        start = stream.rank * stream.batch_size * stream.accum_freq
        for low in range(start, start + stream.batch_size * stream.accum_freq, stream.batch_size):
            shard, ordinal = plan.positions(t, low, low + stream.batch_size)
            for at in range(0, stream.batch_size, stream.piece):
                part = slice(at, at + stream.piece)
                yield Request(data_pass, t, low + at, shard[part], ordinal[part])
