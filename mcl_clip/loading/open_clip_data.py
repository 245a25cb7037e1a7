"""The shape in which open_clip_train's `train_one_epoch` takes its data."""

from collections.abc import Iterator
from typing import Any

import torch

from mcl_clip.loading.loader import GlobalBatchLoader


def for_open_clip(loader: GlobalBatchLoader, loss: Any) -> "OpenClipData":
    """A loader as `data["train"]` of open_clip's own training loop, with an MCL loss."""
    return OpenClipData(loader, loss)


class OpenClipData:
    """`data["train"]` for open_clip's own loop; sets `loss.segments` to the layout of each global batch.

    Use it as `dataloader`, with `set_epoch`. Its accumulation (`--accum-freq` equal to the loader's) is
    served as well.
    """

    def __init__(self, loader: GlobalBatchLoader, loss: Any):
        self.loader, self.loss = loader, loss
        self.num_batches = len(loader)
        self.num_samples = loader.steps_per_epoch * loader.global_batch
        self.dataloader = self

    def set_epoch(self, epoch: int) -> None:
        """As of `GlobalBatchLoader`."""
        self.loader.set_epoch(epoch)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in self.loader:
            self.loss.segments = batch.layout
            yield batch.images, batch.texts
