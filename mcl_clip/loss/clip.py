"""The softmax (CLIP) loss of a stage: negatives of an anchor come from its own segment only."""

import torch
from open_clip.loss import gather_features
from torch import Tensor, nn

from mcl_clip.loss.blocks import BLOCK_MEMORY, SoftmaxBlock
from mcl_clip.loss.captions import caption_ids, gather_ids
from mcl_clip.loss.layout import check_layout, overlaps
from mcl_clip.plan.segments import SegmentLayout


class MCLClipLoss(nn.Module):
    """open_clip's ClipLoss within the segments of the global batch (equation in docs/method.md).

    local_loss, gather_with_grad, rank, world_size: as of `open_clip.ClipLoss`, in value and gradient. mask_identical:
    samples of a segment whose captions are the same are no negatives of each other. block_memory: bytes of logits that
    may exist at a time. The attribute `segments` is the layout used when `forward` gets none; a loader may set it.
    """

    def __init__(
        self,
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
        """The loss, a scalar in float32 or wider; {"contrastive_loss": loss} with `output_dict`.

        image_features, text_features: [G/W, D], unit vectors of this rank, in position order. segments: layout of the
        whole global batch of G; None is one segment. text_ids: [G/W, context] token ids, needed for `mask_identical`.
        A `logit_bias` changes no softmax and is ignored. Raises `ValueError` when features and layout do not match.
        """
        segments = check_layout(segments or self.segments, image_features, text_features, self.world_size)
        ids = caption_ids(text_ids, len(image_features)) if self.mask_identical else None
        if self.world_size > 1:
            images, texts = gather_features(
                image_features, text_features, self.local_loss, self.gather_with_grad, self.rank, self.world_size
            )
            ids = gather_ids(ids, self.world_size)
        else:
            images, texts = image_features, text_features
        scale = torch.as_tensor(logit_scale, device=images.device)
        if self.world_size > 1 and self.local_loss:
            total = self._local(image_features, text_features, images, texts, scale, ids, segments)
            loss = total / (2 * len(image_features))
        else:
            loss = self._whole(images, texts, scale, ids, segments) / (2 * segments.size)
        return {"contrastive_loss": loss} if output_dict else loss

    def _whole(self, images, texts, scale, ids, segments) -> Tensor:
        """Both directions of every segment, from one matrix each."""
        blocks = [
            SoftmaxBlock.apply(
                images[start:stop], texts[start:stop], scale, 0, True, *_pair(ids, start, stop), self.block_memory
            )
            for start, stop in segments.bounds()
        ]
        return torch.stack(blocks).sum()

    def _local(self, image, text, images, texts, scale, ids, segments) -> Tensor:
        """This rank's anchors of both directions against all of their segments."""
        first = self.rank * len(image)
        blocks = []
        for (low, high), (start, stop) in overlaps(segments, first, first + len(image)):
            mine = slice(low - first, high - first)
            masks = (None, None) if ids is None else (ids[low:high], ids[start:stop])
            for queries, keys in ((image, texts), (text, images)):
                blocks.append(
                    SoftmaxBlock.apply(
                        queries[mine], keys[start:stop], scale, low - start, False, *masks, self.block_memory
                    )
                )
        return torch.stack(blocks).sum()


def _pair(ids: Tensor | None, start: int, stop: int) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if ids is None else (ids[start:stop], ids[start:stop])
