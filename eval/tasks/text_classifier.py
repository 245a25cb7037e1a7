"""The text side of zero-shot classification, kept on disk: the same model and prompts are embedded once."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from eval.data.prompts import prompts
from eval.embedding import embed_texts
from eval.models import ScoredModel
from eval.rows import Row, row_embedding
from mcl_clip.artifacts import atomic_path, sha256_json

TEXTS_AT_ONCE = 1024


def default_cache() -> Path:
    """$MCL_CLIP_CACHE, else ~/.cache/mcl_clip (or what $XDG_CACHE_HOME says)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("MCL_CLIP_CACHE") or Path(home) / "mcl_clip")


def text_classifier(
    scored: ScoredModel,
    rows: Sequence[Row],
    classnames: Sequence[str],
    templates: Sequence[str],
    *,
    record: dict[str, Any],
    cache: Path | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Class weights float32 [D, classes] by row: the normalised mean of the prompts' unit embeddings.

    That is what open_clip's `build_zero_shot_classifier` makes of each row's model. With a `cache` directory they
    are read from there when it has them, and kept there; `record` is `scored.record()` of the weights as they are now.
    """
    path = (
        None if cache is None else cache / "classifiers" / f"{_key(scored, classnames, templates, record)}.safetensors"
    )
    names = {row.name for row in rows}
    if path is not None and path.is_file():
        try:
            found = load_file(path, device=str(scored.device))
        except (SafetensorError, OSError):  # cut by a full disk or another program: made again below
            found = {}
        if found.keys() == names and all(weights.shape[1] == len(classnames) for weights in found.values()):
            return found
    made = _embed(scored, rows, classnames, templates, progress)
    if path is not None:
        with atomic_path(path) as temporary:
            save_file({name: weights.cpu().contiguous() for name, weights in made.items()}, temporary)
    return made


@torch.inference_mode()
def _embed(
    scored: ScoredModel, rows: Sequence[Row], classnames: Sequence[str], templates: Sequence[str], progress: bool
) -> dict[str, Tensor]:
    """Some classes at a time, so that memory does not grow with the number of prompts."""
    parts: dict[str, list[Tensor]] = {row.name: [] for row in rows}
    step = max(1, TEXTS_AT_ONCE // len(templates))
    for start in tqdm(range(0, len(classnames), step), "class texts", disable=not progress):
        texts = prompts(classnames[start : start + step], templates)
        stages = embed_texts(scored, texts)
        for row in rows:
            embedding = row_embedding(scored.model, row, stages)
            means = embedding.reshape(-1, len(templates), embedding.shape[-1]).mean(1)
            parts[row.name].append(F.normalize(means, dim=-1))
    return {name: torch.cat(each).T for name, each in parts.items()}


def _key(scored: ScoredModel, classnames: Sequence[str], templates: Sequence[str], record: dict[str, Any]) -> str:
    """A hash of all that the weights depend on; some tokens stand for the tokenizer."""
    tokens = scored.tokens(prompts(classnames[:1], templates)).tolist()
    fusion = [getattr(scored.model, "fusion", None), getattr(scored.model, "weights", None)]
    return sha256_json([record, fusion, list(classnames), list(templates), tokens])
