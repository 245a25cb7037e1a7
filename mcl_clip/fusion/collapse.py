"""One stage's embedding size for all stages, when they share the text tower: scores stay, ranking by
cosine does not.

With one text embedding v for all stages, the fused score is a sum over stages of u_s . v up to a factor
an image knows alone. The sum of the image embeddings therefore scores as the fused model does.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mcl_clip.fusion.combine import weight_shares


def collapse_images(
    embeddings: Sequence[Tensor],
    fusion: str = "concat",
    weights: Sequence[float] | None = None,
    normalize: bool = False,
) -> Tensor:
    """Raw stage embeddings of images, each [B, D], to one [B, D] whose dot products with `collapse_texts` are the
    fused cosines.

    With `normalize` a vector is divided by the norm of the uncollapsed embedding, so it is *not* unit: a scorer
    that renormalises it keeps the classes of an image, but not the order of images for a text.
    """
    if fusion != "concat":
        shares = weight_shares(len(embeddings), weights)
        return torch.stack([F.normalize(e, dim=-1) * w for e, w in zip(embeddings, shares, strict=True)]).sum(0)
    total = torch.stack(list(embeddings)).sum(0) / len(embeddings) ** 0.5
    if not normalize:
        return total
    return total / torch.stack([e.square().sum(-1) for e in embeddings]).sum(0).sqrt()[:, None].clamp_min(1e-12)


def collapse_texts(embeddings: Sequence[Tensor], normalize: bool = False) -> Tensor:
    """The text embedding [B, D] that all stages share."""
    return F.normalize(embeddings[0], dim=-1) if normalize else embeddings[0]
