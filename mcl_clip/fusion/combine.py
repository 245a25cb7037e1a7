"""From the stages' embeddings to the fused embedding: pure functions of tensors."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mcl_clip.errors import UserError

FUSIONS = ("concat", "mean-cosine", "fitted")


def fuse_embeddings(
    embeddings: Sequence[Tensor],
    fusion: str = "concat",
    weights: Sequence[float] | None = None,
    normalize: bool = False,
) -> Tensor:
    """Join raw stage embeddings [B, D_s] to [B, sum of D_s].

    `concat`: the raw embeddings side by side, as published (arXiv 2402.11816); `normalize` divides by
    their norm. `mean-cosine`: unit embeddings, each times the square root of its weight's share, so that
    the cosine of two fused embeddings is the weighted mean of the stages' cosines; it is of unit norm
    either way. `fitted`: the same, under weights that `fit_weights` found.
    """
    if fusion != "concat":
        shares = weight_shares(len(embeddings), weights)
        pairs = zip(embeddings, shares, strict=True)
        return torch.cat([F.normalize(embedding, dim=-1) * share**0.5 for embedding, share in pairs], dim=-1)
    fused = torch.cat(list(embeddings), dim=-1)
    return F.normalize(fused, dim=-1) if normalize else fused


def weight_shares(num_stages: int, weights: Sequence[float] | None) -> list[float]:
    """Weights as shares of one, all equal without weights; `UserError` when they do not fit."""
    if weights is None:
        return [1 / num_stages] * num_stages
    if len(weights) != num_stages or not all(0 < weight < float("inf") for weight in weights):
        raise UserError(
            f"--weights needs {num_stages} positive numbers, one a stage; got {list(weights)} "
            "(leave a stage out instead of giving it the weight 0)"
        )
    total = sum(weights)
    return [weight / total for weight in weights]


def check_fusion(fusion: str, weights: Sequence[float] | None, num_stages: int) -> None:
    """`UserError` when the fusion is unknown, or the weights do not belong to it."""
    if fusion not in FUSIONS:
        raise UserError(f"--fusion is one of {', '.join(FUSIONS)}, not {fusion}")
    if fusion == "fitted" and weights is None:
        raise UserError("--fusion fitted needs pairs to fit its weights on: fuse with mcl-fuse --fit-on DATA")
    if weights is not None and fusion == "concat":
        raise UserError("--weights belong to --fusion mean-cosine; concat weights a stage by its embeddings' norm")
    weight_shares(num_stages, weights)
