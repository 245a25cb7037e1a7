"""The sigmoid (SigLIP) loss of a stage: pairs across segments are dropped."""

import torch
import torch.distributed.nn
from torch import Tensor, nn

from mcl_clip.loss.blocks import BLOCK_MEMORY, SigmoidBlock
from mcl_clip.loss.captions import caption_ids, gather_ids
from mcl_clip.loss.layout import check_layout, overlaps
from mcl_clip.plan.segments import SegmentLayout


class MCLSigLipLoss(nn.Module):
    """open_clip's SigLipLoss within the segments of the global batch.

    One differentiable gather of the text features replaces open_clip's neighbour exchanges: same value, same
    gradient. Arguments and `segments` as of `MCLClipLoss`.
    """

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        mask_identical: bool = False,
        block_memory: int = BLOCK_MEMORY,
    ) -> None:
        super().__init__()
        self.rank, self.world_size = rank, world_size
        self.mask_identical, self.block_memory = mask_identical, block_memory
        self.segments: SegmentLayout | None = None

    @torch.compiler.disable
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        segments: SegmentLayout | None = None,
        text_ids: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """The sum over this rank's images and the texts of their segments, divided by G/W; as `MCLClipLoss.forward`."""
        segments = check_layout(segments or self.segments, image_features, text_features, self.world_size)
        ids = caption_ids(text_ids, len(image_features)) if self.mask_identical else None
        texts = text_features
        if self.world_size > 1:
            texts = torch.cat(torch.distributed.nn.all_gather(text_features))
            ids = gather_ids(ids, self.world_size)
        scale = torch.as_tensor(logit_scale, device=texts.device)
        bias = torch.zeros_like(scale) if logit_bias is None else torch.as_tensor(logit_bias, device=texts.device)
        first = self.rank * len(image_features)
        blocks = []
        for (low, high), (start, stop) in overlaps(segments, first, first + len(image_features)):
            masks = (None, None) if ids is None else (ids[low:high], ids[start:stop])
            blocks.append(
                SigmoidBlock.apply(
                    image_features[low - first : high - first],
                    texts[start:stop],
                    scale,
                    bias,
                    low - start,
                    *masks,
                    self.block_memory,
                )
            )
        loss = torch.stack(blocks).sum() / len(image_features)
        return {"contrastive_loss": loss} if output_dict else loss
