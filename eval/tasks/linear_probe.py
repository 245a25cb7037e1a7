"""What a linear classifier reads from the image embeddings of every stage and fusion."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.data.classification_set import ClassificationSet
from eval.models import ScoredModel
from eval.tasks.logistic import fit
from eval.tasks.probing import Columns, Scores, evaluate_rows, recalls
from eval.tasks.probing import features as features
from mcl_clip import seeds

TASK = "linear_probe"
STRENGTHS = tuple(float(c) for c in 10.0 ** np.arange(-2, 5))
HELD_OUT = 5


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
        scored, used = (torch.from_numpy(part).to(train.device) for part in (held, kept))
        fitted = fit(train[used], own[used], len(classes), STRENGTHS)
        right = [int((classifier.predict(train[scored]) == own[scored]).sum()) for classifier in fitted]
        best = STRENGTHS[int(np.argmax(right))]
    *_, last = fit(train, own, len(classes), [strength for strength in STRENGTHS if strength <= best])
    return classes[last.predict(test).cpu().numpy()], best


def evaluate(
    scored: ScoredModel,
    train: ClassificationSet | Columns,
    test: ClassificationSet | Columns,
    *,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Fit on `train` and score on `test` (see `open_set`), embedding each set once for all rows.

    Metrics, as fractions: lp_acc1, lp_mean_per_class_recall; also inverse_l2_strength, n_train, n_images. `intervals`
    holds the 95 % interval of both. Several label columns, and errors: as of `evaluate_rows`.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "seed": seed}
    return evaluate_rows(TASK, partial(_score, seed=seed), scored, train, test, **options)


def _score(train: Tensor, train_labels: np.ndarray, test: Tensor, labels: np.ndarray, *, seed: int) -> Scores:
    predicted, strength = probe(train, train_labels, test, seed=seed)
    recall, ends = recalls(predicted, labels)
    metrics = {"lp_mean_per_class_recall": recall, "inverse_l2_strength": strength}
    return Scores({"lp_acc1": predicted == labels}, metrics, {"lp_mean_per_class_recall": ends})
