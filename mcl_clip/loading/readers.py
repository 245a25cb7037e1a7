"""Batches from the reader processes of a DataLoader."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


def from_readers(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives; a reader that has died is one kind of `RuntimeError`, whichever way it shows."""
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if not loader.num_workers:
                raise
            # It died after it had announced a batch and before its memory was handed over.
            raise RuntimeError("DataLoader worker exited unexpectedly") from error
        yield batch
