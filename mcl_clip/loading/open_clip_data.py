"""Our loader and loss in the shape in which open_clip_train's `train_one_epoch` takes them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mcl_clip.errors import UserError
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.plan.segments import SegmentLayout


def for_open_clip(loader: GlobalBatchLoader, loss: nn.Module) -> tuple["OpenClipData", "LayoutLoss"]:
    """`data["train"]` and the loss for open_clip's own training loop.

    loss: an `MCLClipLoss` or `MCLSigLipLoss`; it is given the layout of each global batch. Accumulation
    (`--accum-freq` equal to the loader's) is served as well.
    """
    data = OpenClipData(loader)
    return data, LayoutLoss(data, loss)


class OpenClipData:
    """(images, texts) of a loader; `layout` is that of the global batch given last."""

    def __init__(self, loader: GlobalBatchLoader) -> None:
        self.loader = loader
        self.layout: SegmentLayout | None = None
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
            if batch.missing:
                raise UserError(
                    f"{batch.keys[0]} or others of its batch cannot be read or replaced: index the data anew"
                )
            self.layout = batch.layout
            yield self.loader.normalize(batch.images), batch.texts


class LayoutLoss(nn.Module):
    """A loss over the segments of the global batch that `data` gave last."""

    def __init__(self, data: OpenClipData, loss: nn.Module) -> None:
        super().__init__()
        self.data, self.loss = data, loss

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of this rank's features, as open_clip calls it."""
        return self.loss(*args, segments=self.data.layout, **kwargs)
