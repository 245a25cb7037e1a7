"""Batches through an encoder in order, with bits that do not depend on the number of threads."""

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

import torch

from mcl_clip.clustering.encoder import Encoder


class Batch(Protocol):
    """Inputs of an encoder."""

    images: torch.Tensor | None
    texts: torch.Tensor | None


B = TypeVar("B", bound=Batch)


def encode_in_order(encoder: Encoder, batches: Iterable[B]) -> Iterator[tuple[B, dict[str, torch.Tensor]]]:
    """Every batch with its features, in order.

    On a CPU each batch runs on one thread, several batches at once: a matrix product split over threads sums in another
    order, and torchrun gives a rank one thread where a process alone has all of them.
    """
    if encoder.device.type != "cpu":
        for batch in batches:
            yield batch, encoder.encode(batch.images, batch.texts)
        return
    pending: deque[tuple[B, Future]] = deque()
    with (
        one_thread_each() as count,
        ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        for batch in batches:
            pending.append((batch, pool.submit(encoder.encode, batch.images, batch.texts)))
            if len(pending) > count:
                first, future = pending.popleft()
                yield first, future.result()
        for last, future in pending:
            yield last, future.result()


@contextlib.contextmanager
def one_thread_each() -> Iterator[int]:
    """Operations run on one thread inside; gives the number of threads they had."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield count
    finally:
        torch.set_num_threads(count)
