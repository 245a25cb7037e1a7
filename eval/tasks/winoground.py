"""Winoground's text, image and group scores, on Winoground or NaturalBench-Retrieval."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eval.data.winoground import Example
from eval.embedding import embed_all_images, embed_texts
from eval.intervals import wilson
from eval.models import ScoredModel
from eval.rows import row_embedding, rows_of
from eval.scores import result
from eval.tasks.pair_similarities import PairSimilarities, pair_similarities

CHANCE = {"text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}


@torch.inference_mode()
def evaluate(
    scored: ScoredModel,
    examples: Sequence[Example],
    *,
    benchmark: str = "winoground",
    batch_size: int = 64,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score every row of the model on `examples` (see `open_examples`), in one pass over the images.

    Metrics, as fractions: text_score (each image is strictly closer to its own caption), image_score (each caption is
    strictly closer to its own image), group_score (both), the same by tag where there are tags (group_score/Object),
    chance, n_examples. `intervals` holds the 95 % interval of each (Wilson).
    """
    samples = [sample for example in examples for sample in example.images]
    texts = embed_texts(scored, [caption for example in examples for caption in example.captions])
    stages, _, content = embed_all_images(scored, samples, len(samples), batch_size=batch_size, progress=progress)
    record = scored.record() | {"data_revision": content}
    tags = [example.tag for example in examples]
    results = []
    for row in rows_of(scored.model):
        images, captions = (row_embedding(scored.model, row, each) for each in (stages, texts))
        metrics, intervals = _metrics(matches(pair_similarities(images, captions)), tags)
        results.append(
            result(
                scored, row.name, dataset=benchmark, task=benchmark, metrics=metrics, intervals=intervals, record=record
            )
        )
    return results


def matches(scores: PairSimilarities) -> dict[str, np.ndarray]:
    """bool [n] of each score: Thrush et al., arXiv 2204.03162, equations 1 to 3; a tie is wrong."""
    own = scores.text_image[:, [0, 1], [0, 1]]
    other_text = scores.text_image[:, [1, 0], [0, 1]]
    other_image = scores.text_image[:, [0, 1], [1, 0]]
    text, image = ((hits := own > other)[:, 0] & hits[:, 1] for other in (other_text, other_image))
    return {"text_score": text, "image_score": image, "group_score": text & image}


def _metrics(hits: dict[str, np.ndarray], tags: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    metrics: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    labels = np.array(tags)
    groups = {"": np.ones(len(labels), bool)} | {f"/{tag}": labels == tag for tag in dict.fromkeys(tags) if tag}
    for suffix, members in groups.items():
        for name, each in hits.items():
            share = float(each[members].mean())
            metrics[name + suffix], intervals[name + suffix] = share, wilson(share, int(members.sum()))
    return metrics | {"chance": CHANCE, "n_examples": len(tags)}, intervals
