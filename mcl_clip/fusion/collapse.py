"""One stage's embedding size for all stages, when they share the text tower: scores stay, ranking by
cosine does not.

With one text embedding v for all stages, the fused score is a sum over stages of u_s . v up to a factor
an image knows alone. The sum of the image embeddings therefore scores as the fused model does.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mcl_clip.errors import UserError
from mcl_clip.fusion.combine import weight_shares
from mcl_clip.fusion.fused_model import FusedCLIP


class CollapsedCLIP(FusedCLIP):
    """A fused model whose embedding has one stage's size; dot products of its outputs are the fused cosines.

    With `normalize=True` image vectors are divided by the norm of the uncollapsed embedding, so they are
    *not* unit: a scorer that renormalises them keeps the classes of an image, but not the order of images
    for a text.
    """

    def __init__(self, stages: Sequence, *args, **kwargs):
        super().__init__(stages, *args, **kwargs)
        if not self.shares_text_tower:
            raise UserError(
                "collapse needs stages that share one text tower bit for bit (train with --lock-text); "
                "these differ, so use the fused model"
            )

    def collapse(self) -> "FusedCLIP":
        """Itself: it is collapsed."""
        return self

    def fuse_images(self, embeddings: list[Tensor], normalize: bool = False) -> Tensor:
        if self.fusion == "mean-cosine":
            shares = weight_shares(len(embeddings), self.weights)
            return torch.stack([F.normalize(e, dim=-1) * w for e, w in zip(embeddings, shares, strict=True)]).sum(0)
        total = torch.stack(embeddings).sum(0) / len(embeddings) ** 0.5
        if not normalize:
            return total
        return total / torch.stack([e.square().sum(-1) for e in embeddings]).sum(0).sqrt()[:, None].clamp_min(1e-12)

    def fuse_texts(self, embeddings: list[Tensor], normalize: bool = False) -> Tensor:
        return F.normalize(embeddings[0], dim=-1) if normalize else embeddings[0]

    def _embed_dim(self) -> int:
        return self.dims[0]
