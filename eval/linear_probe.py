"""mcl-linear-probe: what a linear classifier reads from the image embeddings of every stage and fusion."""

import argparse
import sys

from eval.command import add_column_arguments, main_of, tell
from eval.data.classification import open_set
from eval.data.classification_set import ClassificationSet
from eval.data.limit import some_images
from eval.models import ScoredModel
from eval.task import Results, Task
from eval.tasks.linear_probe import evaluate
from mcl_clip.errors import UserError

__all__ = ["TASK", "evaluate", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set and its two splits."""
    parser.add_argument("--dataset", required=True, help="as for mcl-zero-shot; it needs a split to fit on")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--split", default="test")
    add_column_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)


def open_data(args: argparse.Namespace) -> tuple[ClassificationSet, ...]:
    """The split to fit on and the one to score."""
    if args.seed < 0:
        raise UserError("--seed must not be negative")
    splits = tuple(
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
    tell([note for split in splits for note in split.notes])
    return tuple(some_images(split, args.limit) for split in splits)


def score(scored: ScoredModel, data: tuple[ClassificationSet, ...], args: argparse.Namespace) -> Results:
    """Every row of the model."""
    train, test = data
    return evaluate(scored, train, test, seed=args.seed, batch_size=args.batch_size, progress=args.progress)


TASK = Task(
    name="linear-probe",
    description="Logistic regression (L-BFGS, on the model's device) on the image embeddings of every stage, every "
    "cumulative fusion and the fused model.",
    examples=(
        "mcl-linear-probe --model runs/demo/fused --dataset runs/demo-data/zero_shot/texture --train-split test "
        "--limit 60",
        "mcl-linear-probe --model runs/demo/stage_0 --dataset runs/demo-data/zero_shot/color --train-split test "
        "--output runs/demo-probe.json",
    ),
    place="--dataset",
    headline=("lp_acc1", "lp_mean_per_class_recall"),
    add_arguments=add_arguments,
    open=open_data,
    score=score,
    columns=lambda rows: ["lp_acc1", "lp_mean_per_class_recall"],
)
main = main_of(TASK)


if __name__ == "__main__":
    sys.exit(main())
