"""Zero-shot classification of every stage and the fused model, in one pass over the images."""

from pathlib import Path
from typing import Any

import numpy as np

from eval.all_ranks import on_all_ranks
from eval.data.class_names import require_names
from eval.data.classification_set import ClassificationSet
from eval.data.images import content_hash
from eval.intervals import mean_of_shares, wilson
from eval.models import ScoredModel
from eval.rows import rows_of
from eval.scores import result
from eval.tasks.predictions import Predictions, predict, sum_over_ranks
from eval.tasks.text_classifier import text_classifier

TASK = "zeroshot_classification"


def evaluate(
    scored: ScoredModel,
    data: ClassificationSet,
    *,
    batch_size: int = 64,
    confusion: bool = False,
    cache: Path | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score every row of the model on `data` (see `open_set`).

    Metrics, as fractions: acc1, acc5 (null below five classes), mean_per_class_recall, per_class_recall (in the order
    of the classes), n_images, and with `confusion` the counts [true class][predicted class]; `intervals` holds the
    95 % interval of each. `cache` is a directory for text classifiers (see `text_classifier`). With several ranks (a
    process group is up) every rank scores its share of the images and returns the whole result. Raises `UserError`
    where classes are numbers without names.
    """
    require_names(data)
    record = scored.record()
    rows = rows_of(scored.model)

    def work() -> Predictions:
        weights = text_classifier(
            scored, rows, data.classnames, data.templates, record=record, cache=cache, progress=progress
        )
        return predict(
            scored,
            data,
            weights,
            batch_size=batch_size,
            confusion=confusion,
            rank=rank,
            world_size=world_size,
            progress=progress,
        )

    found = sum_over_ranks(on_all_ranks(work, world_size), scored.device, world_size)
    revision = data.revision or content_hash([each.tobytes() for each in found.digests])
    record |= {"data_revision": revision, "classes": list(data.classnames), "templates": list(data.templates)}
    results = []
    for index, row in enumerate(rows):
        metrics, intervals = metrics_of(found.right[index], found.images, int(found.top5[index]))
        if confusion:
            metrics["confusion_matrix"] = found.confusion[index].tolist()
        results.append(
            result(scored, row.name, dataset=data.name, task=TASK, metrics=metrics, intervals=intervals, record=record)
        )
    return results


def metrics_of(right: np.ndarray, images: np.ndarray, top5: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, intervals) of `evaluate` from one row's counts by class; a class without images has a null recall."""
    total, hits = int(images.sum()), int(right.sum())
    seen = images > 0
    recall = [int(hit) / int(count) if count else None for hit, count in zip(right, images, strict=True)]
    shares = right[seen] / images[seen]
    has_top5 = len(images) >= 5
    metrics = {
        "acc1": hits / total,
        "acc5": top5 / total if has_top5 else None,
        "mean_per_class_recall": float(shares.mean()),
        "per_class_recall": recall,
        "n_images": total,
    }
    intervals = {
        "acc1": wilson(hits / total, total),
        "acc5": wilson(top5 / total, total) if has_top5 else None,
        "mean_per_class_recall": mean_of_shares(shares, images[seen]),
        "per_class_recall": [
            None if share is None else wilson(share, int(count)) for share, count in zip(recall, images, strict=True)
        ],
    }
    return metrics, intervals
