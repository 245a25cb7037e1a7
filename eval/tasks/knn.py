"""What the nearest training images say of a test image, in the embeddings of every stage and fusion."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.data.classification_set import ClassificationSet
from eval.models import ScoredModel
from eval.tasks.probing import Columns, Scores, evaluate_rows
from mcl_clip.errors import UserError

TASK = "knn"
NEIGHBOURS = (20, 200)
BLOCK = 1 << 24
"""Most similarities at a time."""


def predict(
    train: Tensor, train_labels: np.ndarray, test: Tensor, neighbours: Sequence[int], temperature: float = 0.1
) -> dict[int, np.ndarray]:
    """Labels of `test` [M, D] by each number of nearest neighbours in `train` [N, D], unit vectors both.

    A neighbour's vote weighs exp(cosine / temperature) (arXiv 1805.01978); of equal classes the first is taken.
    """
    bank, bank_labels = train, torch.from_numpy(train_labels).to(train.device)
    classes = int(bank_labels.max()) + 1
    found: dict[int, list[torch.Tensor]] = {count: [] for count in neighbours}
    for block in test.split(max(1, BLOCK // len(bank))):
        similarity, index = (block @ bank.T).topk(min(max(neighbours), len(bank)), dim=1)
        # Relative to the nearest, so that no weight overflows.
        weights, voted = ((similarity - similarity[:, :1]) / temperature).exp(), bank_labels[index]
        for count in neighbours:
            votes = weights.new_zeros(len(block), classes)
            found[count].append(votes.scatter_add_(1, voted[:, :count], weights[:, :count]).argmax(1))
    return {count: torch.cat(parts).cpu().numpy() for count, parts in found.items()}


def evaluate(
    scored: ScoredModel,
    train: ClassificationSet | Columns,
    test: ClassificationSet | Columns,
    *,
    neighbours: Sequence[int] = NEIGHBOURS,
    temperature: float = 0.1,
    batch_size: int = 64,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score `test` by its neighbours in `train` (see `open_set`), embedding each set once for all rows.

    Metrics, as fractions with intervals: knn20_acc1 and knn200_acc1, of fewer training images all; also n_train,
    n_images. Several label columns, and errors: as of `evaluate_rows`.
    """
    if not neighbours or min(neighbours) < 1 or not 0 < temperature < float("inf"):
        raise UserError("--neighbours are numbers from 1 on, and --temperature is above 0")
    score = partial(_score, neighbours=neighbours, temperature=temperature)
    options: dict[str, Any] = {"batch_size": batch_size, "progress": progress, "temperature": temperature}
    return evaluate_rows(TASK, score, scored, train, test, **options)


def _score(
    train: Tensor,
    train_labels: np.ndarray,
    test: Tensor,
    labels: np.ndarray,
    *,
    neighbours: Sequence[int],
    temperature: float,
) -> Scores:
    predicted = predict(train, train_labels, test, neighbours, temperature)
    return Scores({f"knn{count}_acc1": each == labels for count, each in predicted.items()})
