"""The loss of a student: a teacher's similarities within the segments of a global batch, beside its own loss."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mcl_clip.errors import UserError
from mcl_clip.loss.gather import gather_all, gather_with_gradient
from mcl_clip.loss.pairs import BLOCK_MEMORY, Pairs, scalar_loss
from mcl_clip.loss.segment_loss import as_scalar, checked_layout
from mcl_clip.plan.segments import SegmentLayout

TEACHER_SCALE = "dist_logit_scale"
"""The one argument that is no feature."""


class MCLDistillLoss(nn.Module):
    """open_clip's DistillClipLoss within the segments of the global batch: a student's softmax against a teacher's.

    The mean over anchors, of both sides, of -sum_j p_ij log q_ij over the anchor's segment, p the teacher's softmax
    and q the student's. contrastive: the student's own loss, which counts `contrastive_weight` times; with weight 0
    it is not computed, and what it alone reads (a `logit_bias`) must not require a gradient under DDP, which would wait
    for one. Values and gradients of the ranks average to those of one process.
    """

    def __init__(
        self,
        contrastive: nn.Module,
        contrastive_weight: float = 1.0,
        *,
        rank: int = 0,
        world_size: int = 1,
        block_memory: int = BLOCK_MEMORY,
    ) -> None:
        super().__init__()
        self.contrastive, self.contrastive_weight = contrastive, contrastive_weight
        self.rank, self.world_size, self.block_memory = rank, world_size, block_memory

    @torch.compiler.disable
    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        dist_image_features: Tensor,
        dist_text_features: Tensor,
        dist_logit_scale: Tensor | float,
        segments: SegmentLayout | None = None,
        output_dict: bool = False,
        **own: Any,
    ) -> Tensor | dict[str, Tensor]:
        """The sum of both losses, a scalar; with `output_dict` {"distill_loss", "contrastive_loss" times its weight}.

        image_features, text_features: [G/W, D], unit vectors of this rank in position order; dist_: the teacher's,
        [G/W, any D], and its scale; they get no gradient. segments: as of `SegmentLoss`. own: arguments of
        `contrastive` alone. Raises `UserError` when features and layout do not fit.
        """
        layout = checked_layout(segments, self.world_size, image_features, text_features)
        if len(dist_image_features) != len(image_features):
            raise UserError(f"the teacher gave {len(dist_image_features)} features for {len(image_features)} samples")
        checked_layout(layout, self.world_size, dist_image_features, dist_text_features, "the teacher's image and text")
        one_way = partial(
            self._one_way,
            layout=layout,
            scale=as_scalar(logit_scale, image_features),
            dist_scale=as_scalar(dist_logit_scale, image_features).detach(),
        )
        loss = one_way(image_features, text_features, dist_image_features, dist_text_features)
        loss = loss + one_way(text_features, image_features, dist_text_features, dist_image_features)
        losses = {"distill_loss": loss}
        if self.contrastive_weight:
            alone = self.contrastive(image_features, text_features, logit_scale, segments=segments, **own)
            losses["contrastive_loss"] = self.contrastive_weight * alone
        return losses if output_dict else torch.stack(list(losses.values())).sum()

    def _one_way(
        self,
        anchors: Tensor,
        candidates: Tensor,
        dist_anchors: Tensor,
        dist_candidates: Tensor,
        *,
        layout: SegmentLayout,
        scale: Tensor,
        dist_scale: Tensor,
    ) -> Tensor:
        place: dict[str, Any] = {
            "layout": layout,
            "first": self.rank * len(anchors),
            "ids": None,
            "block_memory": self.block_memory // 2,
        }
        dist_candidates = gather_all(dist_candidates, self.world_size)
        teacher = Pairs(dist_anchors.detach(), dist_candidates, dist_scale, None, **place, wanted=[False] * 4)
        return scalar_loss(
            partial(_from_teacher, teacher),
            anchors,
            gather_with_gradient(candidates, self.world_size),
            scale,
            None,
            divisor=2 * len(anchors),
            **place,
        )


def _from_teacher(teacher: Pairs, pairs: Pairs) -> Tensor:
    """Sum over anchors of the cross-entropy of the teacher's softmax with the student's."""
    teacher.blocks, teacher.max_logits = pairs.blocks, pairs.max_logits  # the features' sizes differ
    total = pairs.zero()
    for block in pairs.blocks:
        if block.columns == 1:
            continue
        for strip, taught in zip(pairs.strips(block), teacher.strips(block), strict=True):
            target = teacher.logits(taught).softmax(2).to(pairs.dtype)
            log_softmax = pairs.logits(strip).log_softmax(2)
            if any(pairs.wanted):
                pairs.add_gradient(strip, log_softmax.exp() - target)
            if strip.hidden is not None:
                log_softmax.masked_fill_(strip.hidden, 0)
            total -= (target * log_softmax).sum()
    return total
