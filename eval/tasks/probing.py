"""What a classifier that is fitted on the image embeddings of a train split says of a test split, row by row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from eval.data.classification_set import ClassificationSet
from eval.embedding import embed_all_images
from eval.intervals import bootstrap_mean, mean_of_shares, wilson
from eval.models import ScoredModel
from eval.rows import row_embedding, rows_of
from eval.scores import result
from mcl_clip.errors import UserError

Columns = Mapping[str, ClassificationSet]
"""One set by several of its label columns: the same images with other labels."""


@dataclass(frozen=True)
class Scores:
    """Of a row and a label column: which test images are right, bool [N] by metric; other metrics and intervals."""

    right: dict[str, np.ndarray]
    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def features(
    scored: ScoredModel, data: ClassificationSet, *, batch_size: int = 64, progress: bool = False
) -> tuple[list[Tensor], np.ndarray, str]:
    """Raw embeddings of every stage [N, D_s] on the CPU, labels int64 [N], content hash; compute once, probe often."""
    stages, labels, content = embed_all_images(
        scored, data.samples(), data.size, batch_size=batch_size, progress=progress
    )
    return stages, np.array(labels, np.int64), content


def evaluate_rows(
    task: str,
    score: Callable[[Tensor, np.ndarray, Tensor, np.ndarray], Scores],
    scored: ScoredModel,
    train: ClassificationSet | Columns,
    test: ClassificationSet | Columns,
    *,
    batch_size: int = 64,
    progress: bool = False,
    **record: Any,
) -> list[dict[str, Any]]:
    """Results of `score(train features, labels, test features, labels)`, every image embedded once for all rows.

    Features are unit vectors [N, D] on the model's device, labels int64 [N]. Of several columns each metric is
    METRIC/COLUMN, and METRIC of what is right the mean over the columns, with an interval over the images. Raises
    `UserError` when the two splits have other classes, or one class only.
    """
    trains, tests = (each if isinstance(each, Mapping) else {"": each} for each in (train, test))
    for column, each in trains.items():
        if each.classnames != tests[column].classnames:
            raise UserError(
                f"{each.name} and {tests[column].name} have different classes; the train split must name the same ones"
            )
    first, last = next(iter(trains.values())), next(iter(tests.values()))
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress}
    fitted, fitted_labels, fitted_hash = features(scored, first, **options)
    labels_of = {column: _labels(each, fitted_labels, first) for column, each in trains.items()}
    if (lone := next((column for column, each in labels_of.items() if len(np.unique(each)) < 2), None)) is not None:
        raise UserError(f"{trains[lone].name} has images of one class only; {task.replace('_', ' ')} needs two")
    scored_on, labels, scored_hash = features(scored, last, **options)
    tested = {column: _labels(each, labels, last) for column, each in tests.items()}
    record = {
        **scored.record(),
        "data_revision": last.revision or scored_hash,
        "train_revision": first.revision or fitted_hash,
        **record,
    }
    results = []
    for row in tqdm(rows_of(scored.model), task, disable=not progress):
        values = [row_embedding(scored.model, row, each).to(scored.device) for each in (fitted, scored_on)]
        found = {column: score(values[0], labels_of[column], values[1], tested[column]) for column in trains}
        metrics, intervals = _told(found)
        counts = {"n_train": len(fitted_labels), "n_images": len(labels)}
        results.append(
            result(
                scored,
                row.name,
                dataset=last.name,
                task=task,
                metrics=metrics | counts,
                intervals=intervals,
                record=record,
            )
        )
    return results


def recalls(predicted: np.ndarray, labels: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Mean recall of the classes that occur, with its interval."""
    classes, counts = np.unique(labels, return_counts=True)
    recall = np.array([(predicted[labels == label] == label).mean() for label in classes])
    return float(recall.mean()), mean_of_shares(recall, counts)


def _labels(data: ClassificationSet, known: np.ndarray, of: ClassificationSet) -> np.ndarray:
    """Labels of a column; nothing is read but the table."""
    return known if data is of else np.array([sample.label for sample in data.samples()], np.int64)


def _told(found: Mapping[str, Scores]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    metrics: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    if len(found) > 1:
        for name in next(iter(found.values())).right:
            shares = np.mean([scores.right[name] for scores in found.values()], 0)
            metrics[name], intervals[name] = float(shares.mean()), bootstrap_mean(shares)
    for column, scores in found.items():
        end = f"/{column}" if len(found) > 1 else ""
        for name, right in scores.right.items():
            metrics[name + end] = float(right.mean())
            intervals[name + end] = wilson(metrics[name + end], len(right))
        metrics |= {name + end: value for name, value in scores.metrics.items()}
        intervals |= {name + end: value for name, value in scores.intervals.items()}
    return metrics, intervals
