"""The sigmoid (SigLIP) loss of a stage: pairs across segments are dropped."""

from functools import partial

import torch
from torch import Tensor, nn

from mcl_clip.loss.arguments import as_scalar, check_layout
from mcl_clip.loss.blocks import blocks_of
from mcl_clip.loss.captions import own_and_all_ids
from mcl_clip.loss.gather import gather_with_gradient
from mcl_clip.loss.gradients import scalar_loss
from mcl_clip.loss.pairs import BLOCK_MEMORY
from mcl_clip.loss.products import operand_dtype
from mcl_clip.loss.sigmoid import all_pairs
from mcl_clip.plan.segments import SegmentLayout


class MCLSigLipLoss(nn.Module):
    """open_clip's SigLipLoss within the segments of the global batch (docs/loss.md).

    One gather of the text features with gradient replaces open_clip's neighbour exchanges: the same value and
    gradient. Arguments and the attribute `segments`: as of `MCLClipLoss`.
    """

    def __init__(
        self,
        *,
        rank: int = 0,
        world_size: int = 1,
        mask_identical: bool = False,
        block_memory: int = BLOCK_MEMORY,
    ) -> None:
        super().__init__()
        self.rank, self.world_size = rank, world_size
        self.mask_identical, self.block_memory = mask_identical, block_memory
        self.segments: SegmentLayout | None = None

    # As in MCLClipLoss: the layout is host data that changes with every batch.
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
        """The sum over this rank's images and the texts of their segments, divided by G/W.

        Averaged over ranks it is the sum over all pairs inside segments, divided by G. Arguments and
        errors: as of `MCLClipLoss.forward`.
        """
        segments = check_layout(segments or self.segments, image_features, text_features, self.world_size)
        count = len(image_features)
        kernel = partial(
            all_pairs,
            blocks=blocks_of(segments, self.rank * count, (self.rank + 1) * count),
            divisor=count,
            operand_dtype=operand_dtype(image_features, text_features),
            ids=own_and_all_ids(text_ids, image_features, self.world_size) if self.mask_identical else None,
            block_memory=self.block_memory,
        )
        texts = gather_with_gradient(text_features, self.world_size) if self.world_size > 1 else text_features
        scale = as_scalar(logit_scale, image_features)
        bias = as_scalar(0.0 if logit_bias is None else logit_bias, image_features)
        loss = scalar_loss(kernel, image_features, texts, scale, bias)
        return {"contrastive_loss": loss} if output_dict else loss
