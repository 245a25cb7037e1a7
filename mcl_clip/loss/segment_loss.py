"""What the losses share: arguments, the segment layout, the features and captions of all ranks."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from mcl_clip.errors import UserError
from mcl_clip.loss.captions import caption_ids
from mcl_clip.loss.gather import gather_all
from mcl_clip.loss.pairs import BLOCK_MEMORY
from mcl_clip.plan.segments import SegmentLayout


class SegmentLoss(nn.Module):
    """A contrastive loss in which an anchor's negatives come from its own segment.

    rank, world_size: as of `open_clip.ClipLoss`. mask_identical: samples of a segment with identical captions are no
    negatives of each other. block_memory: bytes of logits that may exist at a time.
    """

    def __init__(
        self, *, rank: int = 0, world_size: int = 1, mask_identical: bool = False, block_memory: int = BLOCK_MEMORY
    ) -> None:
        super().__init__()
        self.rank, self.world_size = rank, world_size
        self.mask_identical, self.block_memory = mask_identical, block_memory

    # The layout changes with every batch and is plain host data: tracing it would mean a graph a layout.
    @torch.compiler.disable
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        segments: SegmentLayout | None = None,
        text_ids: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The loss, a scalar in fp32 or fp64; {"contrastive_loss": loss} with `output_dict`.

        image_features, text_features: [G/W, D], unit vectors of this rank, in position order. segments: layout of the
        whole global batch of G; None is one segment. text_ids: [G/W, context] token ids, used with `mask_identical`.
        Raises `UserError` when features and layout do not fit. Differentiable once.
        """
        layout = checked_layout(segments, self.world_size, image_features, text_features)
        ids = None
        if self.mask_identical:
            own = caption_ids(text_ids, len(image_features)).to(image_features.device, non_blocking=True)
            ids = own, gather_all(own, self.world_size)
        scale = as_scalar(logit_scale, image_features)
        bias = None if logit_bias is None else as_scalar(logit_bias, image_features)
        loss = self._loss(image_features, text_features, scale, bias, layout, ids)
        return {"contrastive_loss": loss} if output_dict else loss

    @abstractmethod
    def _loss(
        self,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        layout: SegmentLayout,
        ids: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """The loss; ids: captions of this rank's samples and of all."""


def checked_layout(
    segments: SegmentLayout | None, world_size: int, first: Tensor, second: Tensor, names: str = "image and text"
) -> SegmentLayout:
    """The layout of a global batch of which each rank has features `first` and `second`, by default one segment.

    Raises `UserError` when they do not fit.
    """
    if first.ndim != 2 or not len(first) or first.shape != second.shape:
        raise UserError(
            f"{names} features of shapes {tuple(first.shape)} and {tuple(second.shape)} "
            "must have one shape, [samples, dimension], with at least one sample"
        )
    expected = len(first) * world_size
    layout = segments or SegmentLayout.one(expected)
    if layout.size != expected:
        raise UserError(
            f"the segment layout has {layout.size} positions in {len(layout.lengths)} segments, but "
            f"features of shape {tuple(first.shape)} on each of {world_size} ranks make {expected}; "
            "give the loss the layout of the whole global batch"
        )
    return layout


def as_scalar(value: Tensor | float, features: Tensor) -> Tensor:
    """A tensor of no dimensions beside the features, at least in fp32."""
    if isinstance(value, Tensor):
        return value.to(features.device).reshape(())
    # Filled on the device: a copy from the host could wait for it.
    dtype = torch.promote_types(features.dtype, torch.float32)
    return torch.full((), value, dtype=dtype, device=features.device)
