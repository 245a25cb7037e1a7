"""The rows of a scores table: every stage, every cumulative fusion, from one pass over the inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcl_clip.errors import UserError
from mcl_clip.fusion.combine import fuse_embeddings


@dataclass(frozen=True)
class Row:
    """One scored model: its name in the scores file and the stages it is made of."""

    name: str
    stages: tuple[int, ...]


def rows_of(model: Any) -> list[Row]:
    """stage_0, stage_1, ..., fused_0-1, ..., fused; stage_0 alone for a model of one stage."""
    count = getattr(model, "num_stages", 1)
    stages = [Row(f"stage_{index}", (index,)) for index in range(count)]
    partial = [Row(f"fused_0-{last}", tuple(range(last + 1))) for last in range(1, count - 1)]
    return stages + partial + ([Row("fused", tuple(range(count)))] if count > 1 else [])


def stage_embeddings(model: Any, image: Tensor | None = None, text: Tensor | None = None) -> list[Tensor]:
    """Raw float32 embeddings [B, D_s] of every stage; of the model itself when it is no fusion."""
    if hasattr(model, "stage_embeddings"):
        embeddings = model.stage_embeddings(image=image, text=text)
    else:
        embeddings = [model.encode_image(image) if image is not None else model.encode_text(text)]
    return [embedding.float() for embedding in embeddings]


def row_embedding(model: Any, row: Row, embeddings: Sequence[Tensor]) -> Tensor:
    """Unit embedding [B, D] of a row from the stages' raw embeddings, as the model fuses them."""
    chosen = [embeddings[index] for index in row.stages]
    if len(chosen) == 1:
        return F.normalize(chosen[0], dim=-1)
    weights = getattr(model, "weights", None)
    weights = None if weights is None else [weights[index] for index in row.stages]
    return fuse_embeddings(chosen, model.fusion, weights, normalize=True)


@torch.inference_mode()
def embed_texts(
    model: Any, tokenizer: Callable[[list[str]], Tensor], texts: Sequence[str], device: Any, batch_size: int = 256
) -> list[Tensor]:
    """Raw embeddings of every stage, [len(texts), D_s] each."""
    parts = [
        stage_embeddings(model, text=tokenizer(list(texts[start : start + batch_size])).to(device))
        for start in range(0, len(texts), batch_size)
    ]
    return [require_finite(torch.cat(stage), "texts") for stage in zip(*parts, strict=True)]


def require_finite(embeddings: Tensor, what: str) -> Tensor:
    """The embeddings; `UserError` when one is NaN or infinite, which would be scored as if it were an answer."""
    if not torch.isfinite(embeddings).all():
        raise UserError(
            f"the model gives NaN or infinite embeddings of {what}; score it with --precision fp32, or train it again"
        )
    return embeddings
