"""The rows of a scores table: every stage, every cumulative fusion, from the stages' embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from mcl_clip.fusion.combine import fuse_embeddings


@dataclass(frozen=True)
class Row:
    """One scored model: its name in the scores file, the stages it is made of, and their fusion: None, the model's."""

    name: str
    stages: tuple[int, ...]
    fusion: str | None = None


def rows_of(model: Any) -> list[Row]:
    """stage_0, stage_1, ..., fused_0-1, ..., fused; stage_0 alone for a model of one stage.

    Before a fused model of fitted weights stands fused_concat: the same stages as published.
    """
    count = getattr(model, "num_stages", 1)
    every = tuple(range(count))
    stages = [Row(f"stage_{index}", (index,)) for index in range(count)]
    partial = [Row(f"fused_0-{last}", tuple(range(last + 1))) for last in range(1, count - 1)]
    if getattr(model, "fusion", None) == "fitted" and count > 1:
        partial.append(Row("fused_concat", every, "concat"))
    return stages + partial + ([Row("fused", every)] if count > 1 else [])


def fusion_of(model: Any, name: str) -> dict[str, Any]:
    """`fusion`, and `weights` where it has some, by which the stages of the row of that name become one; else empty."""
    row = next(each for each in rows_of(model) if each.name == name)
    if len(row.stages) == 1:
        return {}
    weights = None if row.fusion else getattr(model, "weights", None)
    chosen = {} if weights is None else {"weights": [float(weights[index]) for index in row.stages]}
    return {"fusion": row.fusion or model.fusion} | chosen


def row_embedding(model: Any, row: Row, embeddings: Sequence[Tensor]) -> Tensor:
    """Unit embedding [B, D] of a row from the stages' raw embeddings, as the row or else the model fuses them."""
    chosen = [embeddings[index] for index in row.stages]
    if len(chosen) == 1:
        return F.normalize(chosen[0], dim=-1)
    if row.fusion:
        return fuse_embeddings(chosen, row.fusion, normalize=True)
    weights = getattr(model, "weights", None)
    weights = None if weights is None else [weights[index] for index in row.stages]
    return fuse_embeddings(chosen, model.fusion, weights, normalize=True)
