"""The softmax (CLIP) loss of a stage: an anchor's negatives come from its own segment only."""

from functools import partial

import torch
from torch import Tensor, nn

from mcl_clip.loss.arguments import as_scalar, check_layout
from mcl_clip.loss.blocks import blocks_of
from mcl_clip.loss.captions import own_and_all_ids
from mcl_clip.loss.gather import gather_all, gather_with_gradient, gather_with_own_gradient
from mcl_clip.loss.gradients import scalar_loss
from mcl_clip.loss.pairs import BLOCK_MEMORY
from mcl_clip.loss.products import operand_dtype
from mcl_clip.loss.softmax import both_directions, one_direction
from mcl_clip.plan.segments import SegmentLayout


class MCLClipLoss(nn.Module):
    """open_clip's ClipLoss within the segments of the global batch (equation and modes in docs/loss.md).

    local_loss, gather_with_grad, rank, world_size: as of `open_clip.ClipLoss`, in value and gradient.
    mask_identical: samples of a segment with identical captions are no negatives of each other.
    block_memory: bytes of logits that may exist at a time. The attribute `segments` is the layout when
    `forward` is given none; a loader may set it.
    """

    def __init__(
        self,
        *,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        rank: int = 0,
        world_size: int = 1,
        mask_identical: bool = False,
        block_memory: int = BLOCK_MEMORY,
    ) -> None:
        super().__init__()
        self.local_loss, self.gather_with_grad = local_loss, gather_with_grad
        self.rank, self.world_size = rank, world_size
        self.mask_identical, self.block_memory = mask_identical, block_memory
        self.segments: SegmentLayout | None = None

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

        image_features, text_features: [G/W, D], unit vectors of this rank, in position order. segments:
        layout of the whole global batch of G; None is `self.segments`, else one segment. text_ids: [G/W,
        context] token ids, used with `mask_identical`. A `logit_bias` cancels in a softmax: its gradient
        is zero. Raises `UserError` when features and layout do not fit. Differentiable once.
        """
        segments = check_layout(segments or self.segments, image_features, text_features, self.world_size)
        local = self.local_loss and self.world_size > 1
        start = self.rank * len(image_features) if local else 0
        stop = start + len(image_features) if local else segments.size
        ids = None
        if self.mask_identical:
            own_ids, all_ids = own_and_all_ids(text_ids, image_features, self.world_size)
            ids = (own_ids, all_ids) if local else (all_ids, all_ids)
        kernel = partial(
            one_direction if local else both_directions,
            blocks=blocks_of(segments, start, stop),
            divisor=2 * (stop - start),
            operand_dtype=operand_dtype(image_features, text_features),
            ids=ids,
            block_memory=self.block_memory,
        )
        images, texts = self._gather(image_features), self._gather(text_features)
        scale = as_scalar(logit_scale, images)
        if local:
            loss = scalar_loss(kernel, image_features, texts, scale) + scalar_loss(kernel, text_features, images, scale)
        else:
            loss = scalar_loss(kernel, images, texts, scale)
        if isinstance(logit_bias, Tensor):
            loss = loss + 0 * logit_bias.sum()
        return {"contrastive_loss": loss} if output_dict else loss

    def _gather(self, features: Tensor) -> Tensor:
        if self.world_size == 1:
            return features
        if self.gather_with_grad:
            return gather_with_gradient(features, self.world_size)
        if self.local_loss:
            return gather_all(features, self.world_size)
        return gather_with_own_gradient(features, self.rank, self.world_size)
