"""What a student of fused models learns."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mcl_clip.fusion.combine import fuse_embeddings
from mcl_clip.loss import MCLClipLoss, MCLDistillLoss
from mcl_clip.openclip.models import CLIP
from mcl_clip.plan.segments import SegmentLayout

Images = Callable[[Tensor, int], Tensor]
"""float [n, 3, H, W] of rows of the training set in an epoch."""


class Taught:
    """The loss of a student of `models`, concatenated.

    texts: raw embeddings of the training set, fused [N, D]; pictures: of its images, or None where these are others in
    every epoch, as `images` gives them. scale: of the teacher's logits. contrastive: how often the own loss counts.
    """

    def __init__(
        self,
        models: Sequence[CLIP],
        images: Images,
        pictures: Tensor | None,
        texts: Tensor,
        *,
        scale: float,
        contrastive: float,
    ) -> None:
        self._models, self._images, self._scale = models, images, scale
        self._pictures = None if pictures is None else F.normalize(pictures, dim=-1)
        self._texts = F.normalize(texts, dim=-1)
        self._loss = MCLDistillLoss(MCLClipLoss(), contrastive)

    def __call__(
        self, images: Tensor, texts: Tensor, scale: Tensor, layout: SegmentLayout, rows: Tensor, epoch: int
    ) -> Tensor:
        """Of the student's unit features of training samples `rows`."""
        pictures = self._of_images(rows, epoch) if self._pictures is None else self._pictures[rows]
        return self._loss(images, texts, scale, pictures, self._texts[rows], self._scale, segments=layout)

    @torch.no_grad()
    def _of_images(self, rows: Tensor, epoch: int) -> Tensor:
        seen = self._images(rows, epoch)
        return fuse_embeddings([model.encode_image(seen) for model in self._models], normalize=True)
