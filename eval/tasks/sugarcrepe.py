"""SugarCrepe: is an image closer to its caption than to a hard negative?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eval.data.sugarcrepe import CATEGORIES, Category
from eval.embedding import embed_all_images, embed_texts
from eval.intervals import mean_of_shares, wilson
from eval.models import ScoredModel
from eval.rows import row_embedding, rows_of
from eval.scores import result
from eval.tasks.pair_similarities import pair_similarities

TASK = "sugarcrepe"


def evaluate(
    scored: ScoredModel, categories: Sequence[Category], *, batch_size: int = 64, progress: bool = False
) -> list[dict[str, Any]]:
    """Score every row of the model on `categories` (see `open_sugarcrepe`).

    As in the official script a sample is right when the image is strictly closer to its caption than to the
    hard negative. Metrics, as fractions: accuracy/{category}; accuracy/replace, /swap and /add, means of
    their categories where all of them are scored; accuracy, the mean of the categories; chance, n_samples.
    `intervals` holds the 95 % interval of each.
    """
    right: dict[str, dict[str, np.ndarray]] = {row.name: {} for row in rows_of(scored.model)}
    revisions = {}
    for category in categories:
        hits, content = _score(scored, category, batch_size, progress)
        revisions[category.name] = category.revision or content
        for row, each in hits.items():
            right[row][category.name] = each
    record = scored.record() | {"data_revision": revisions}
    results = []
    for row, by_category in right.items():
        metrics, intervals = _metrics(by_category)
        results.append(
            result(scored, row, dataset="sugarcrepe", task=TASK, metrics=metrics, intervals=intervals, record=record)
        )
    return results


@torch.inference_mode()
def _score(
    scored: ScoredModel, category: Category, batch_size: int, progress: bool
) -> tuple[dict[str, np.ndarray], str]:
    """(right or wrong by row and sample, content hash)."""
    count = len(category.captions)
    texts = embed_texts(scored, [text for pair in category.captions for text in pair])
    stages, _, content = embed_all_images(
        scored, category.samples(), count, batch_size=batch_size, progress=progress, what=category.name
    )
    hits = {}
    for row in rows_of(scored.model):
        one_image = row_embedding(scored.model, row, stages).repeat_interleave(2, dim=0)
        similarity = pair_similarities(one_image, row_embedding(scored.model, row, texts)).text_image[:, :, 0]
        hits[row.name] = similarity[:, 0] > similarity[:, 1]
    return hits, content


def _metrics(hits: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, intervals) from right or wrong by category."""
    groups = {"accuracy": list(hits)}
    for kind in ("add", "replace", "swap"):
        members = [category for category in CATEGORIES if category.startswith(f"{kind}_")]
        if set(members) <= hits.keys():  # a part of them has not the published mean, and must not have its name
            groups[f"accuracy/{kind}"] = members
    metrics: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for name, members in groups.items():
        shares, counts = [float(hits[each].mean()) for each in members], [len(hits[each]) for each in members]
        metrics[name], intervals[name] = float(np.mean(shares)), mean_of_shares(shares, counts)
    for category, each in hits.items():
        metrics[f"accuracy/{category}"] = float(each.mean())
        intervals[f"accuracy/{category}"] = wilson(float(each.mean()), len(each))
    return metrics | {"chance": 0.5, "n_samples": sum(map(len, hits.values()))}, intervals
