"""What a linear classifier reads from the image embeddings of every stage and fusion."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from eval.data.classification_set import ClassificationSet
from eval.embedding import embed_all_images
from eval.intervals import mean_of_shares, wilson
from eval.models import ScoredModel
from eval.rows import row_embedding, rows_of
from eval.scores import result
from eval.tasks.logistic import fit
from mcl_clip import seeds
from mcl_clip.errors import UserError

TASK = "linear_probe"
STRENGTHS = tuple(float(c) for c in 10.0 ** np.arange(-2, 5))
HELD_OUT = 5


def features(
    scored: ScoredModel, data: ClassificationSet, *, batch_size: int = 64, progress: bool = False
) -> tuple[list[Tensor], np.ndarray, str]:
    """Raw embeddings of every stage [N, D_s] on the CPU, labels int64 [N], content hash; compute once, probe often."""
    stages, labels, content = embed_all_images(
        scored, data.samples(), data.size, batch_size=batch_size, progress=progress
    )
    return stages, np.array(labels, np.int64), content


def probe(train: Tensor, train_labels: np.ndarray, test: Tensor, *, seed: int = 0) -> tuple[np.ndarray, float]:
    """Predict labels of `test` [M, D] by multinomial logistic regression on unit features `train` [N, D], both fp32.

    Fitted by `logistic.fit` where the features are. The inverse L2 strength comes from STRENGTHS: the best on a fifth
    of the training samples held out by `seed`, the smallest of equals; then all are used. Returns (labels [M],
    strength).
    """
    classes, numbers = np.unique(train_labels, return_inverse=True)
    own = torch.from_numpy(numbers).to(train.device)
    order = seeds.generator(seed, len(train)).permutation(len(train))
    held, kept = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]
    best = STRENGTHS[len(STRENGTHS) // 2]
    if len(held) and len(np.unique(numbers[kept])) > 1:
        held, kept = (torch.from_numpy(part).to(train.device) for part in (held, kept))
        fitted = fit(train[kept], own[kept], len(classes), STRENGTHS)
        right = [int((classifier.predict(train[held]) == own[held]).sum()) for classifier in fitted]
        best = STRENGTHS[int(np.argmax(right))]
    *_, last = fit(train, own, len(classes), [strength for strength in STRENGTHS if strength <= best])
    return classes[last.predict(test).cpu().numpy()], best


def evaluate(
    scored: ScoredModel,
    train: ClassificationSet,
    test: ClassificationSet,
    *,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Fit on `train` and score on `test` (see `open_set`), embedding each set once for all rows.

    Metrics, as fractions: lp_acc1, lp_mean_per_class_recall; also inverse_l2_strength, n_train, n_images. `intervals`
    holds the 95 % interval of both. Raises `UserError` when the two sets have other classes.
    """
    if train.classnames != test.classnames:
        raise UserError(f"{train.name} and {test.name} have different classes; the train split must name the same ones")
    fitted, fitted_labels, fitted_hash = features(scored, train, batch_size=batch_size, progress=progress)
    if len(np.unique(fitted_labels)) < 2:
        raise UserError(f"{train.name} has images of one class only; a linear probe needs two")
    scored_on, labels, scored_hash = features(scored, test, batch_size=batch_size, progress=progress)
    record = scored.record() | {
        "data_revision": test.revision or scored_hash,
        "train_revision": train.revision or fitted_hash,
        "seed": seed,
    }
    results = []
    for row in tqdm(rows_of(scored.model), "probes", disable=not progress):
        values = [row_embedding(scored.model, row, each).to(scored.device) for each in (fitted, scored_on)]
        predicted, strength = probe(values[0], fitted_labels, values[1], seed=seed)
        right = predicted == labels
        classes, counts = np.unique(labels, return_counts=True)
        recall = np.array([right[labels == label].mean() for label in classes])
        metrics = {
            "lp_acc1": float(right.mean()),
            "lp_mean_per_class_recall": float(recall.mean()),
            "inverse_l2_strength": strength,
            "n_train": len(fitted_labels),
            "n_images": len(labels),
        }
        intervals = {
            "lp_acc1": wilson(float(right.mean()), len(right)),
            "lp_mean_per_class_recall": mean_of_shares(recall, counts),
        }
        results.append(
            result(scored, row.name, dataset=test.name, task=TASK, metrics=metrics, intervals=intervals, record=record)
        )
    return results
