"""mcl-linear-probe: what a linear classifier reads from the image embeddings of every stage and fusion."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm import tqdm

from eval.classification_data import open_set
from eval.classification_set import ClassificationSet
from eval.embedding import embed_images
from eval.images import content_hash
from eval.intervals import mean_of_shares, wilson
from eval.models import ScoredModel, add_model_arguments, load_scored_model
from eval.rows import row_embedding, rows_of
from eval.scores import add_output_arguments, result, table, write_scores
from mcl_clip import seeds
from mcl_clip.errors import UserError, exit_on_user_error

TASK = "linear_probe"
STRENGTHS = tuple(float(c) for c in 10.0 ** np.arange(-2, 5))
HELD_OUT = 5


def features(
    scored: ScoredModel, data: ClassificationSet, *, batch_size: int = 64, progress: bool = False
) -> tuple[list[Tensor], np.ndarray, str]:
    """Raw embeddings of every stage [N, D_s] on the CPU, labels int64 [N], content hash; compute once, probe often."""
    parts, labels, digests = [], list[int | str](), list[bytes]()
    for stages, batch in embed_images(scored, data.samples(), data.size, batch_size=batch_size, progress=progress):
        parts.append([stage.cpu() for stage in stages])
        labels += batch.labels
        digests += batch.digests
    embeddings = [torch.cat(stage) for stage in zip(*parts, strict=True)]
    return embeddings, np.array(labels, np.int64), content_hash(digests)


def probe(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, float]:
    """Predict labels of `test` [M, D] by multinomial logistic regression on unit features `train` [N, D].

    Fitted with L-BFGS. The inverse L2 strength comes from STRENGTHS: the best on a fifth of the training
    samples held out by `seed`, the smallest of equals; then all are used. Returns (labels [M], strength).
    """
    order = seeds.generator(seed, len(train)).permutation(len(train))
    held, kept = order[: len(order) // HELD_OUT], order[len(order) // HELD_OUT :]
    best, best_score = STRENGTHS[len(STRENGTHS) // 2], -1.0
    if len(held) and len(np.unique(train_labels[kept])) > 1:
        for strength in STRENGTHS:
            score = _fit(train[kept], train_labels[kept], strength).score(train[held], train_labels[held])
            if score > best_score:
                best, best_score = strength, score
    return _fit(train, train_labels, best).predict(test), best


def _fit(values: np.ndarray, labels: np.ndarray, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=1000).fit(values, labels)


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
        values = [row_embedding(scored.model, row, each).numpy() for each in (fitted, scored_on)]
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


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-linear-probe",
        description="Logistic regression (L-BFGS) on the image embeddings of every stage, every "
        "cumulative fusion and the fused model.",
        epilog="example: mcl-linear-probe --model runs/NAME/fused --dataset FOLDER --label-column color",
    )
    add_model_arguments(parser)
    parser.add_argument("--dataset", required=True, help="as for mcl-zero-shot; it needs a split to fit on")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--split", default="test")
    parser.add_argument("--revision", help="branch, tag or commit of a hub data set; the commit is recorded")
    parser.add_argument("--image-column", help="of a table (default: image, or the only column of images)")
    parser.add_argument("--label-column", help="the class or attribute to read (default: label)")
    parser.add_argument("--seed", type=int, default=0)
    add_output_arguments(parser)
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise UserError("--seed must not be negative")
    train, test = (
        open_set(
            args.dataset,
            split,
            templates="simple",
            image_column=args.image_column,
            label_column=args.label_column,
            revision=args.revision,
        )
        for split in (args.train_split, args.split)
    )
    scored = load_scored_model(args)
    rows = evaluate(scored, train, test, seed=args.seed, batch_size=args.batch_size, progress=sys.stderr.isatty())
    print(table(rows, ["lp_acc1", "lp_mean_per_class_recall"], markdown=args.markdown))
    if args.output:
        write_scores(args.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
