"""mcl-knn: what the nearest training images say of a test image, in the embeddings of every stage and fusion."""

import argparse
import sys

from eval.command import main_of, positive
from eval.models import ScoredModel
from eval.splits import Split, add_split_arguments, open_splits
from eval.task import Results, Task
from eval.tasks.knn import NEIGHBOURS, evaluate

__all__ = ["TASK", "evaluate", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set, its two splits, and the neighbours."""
    add_split_arguments(parser)
    parser.add_argument(
        "--neighbours", type=positive, nargs="+", default=list(NEIGHBOURS), metavar="K", help="(default 20 200)"
    )
    parser.add_argument("--temperature", type=float, default=0.1, help="of the votes' weights (default 0.1)")


def score(scored: ScoredModel, data: tuple[Split, Split], args: argparse.Namespace) -> Results:
    """Every row of the model."""
    train, test = data
    return evaluate(
        scored,
        train,
        test,
        neighbours=args.neighbours,
        temperature=args.temperature,
        batch_size=args.batch_size,
        progress=args.progress,
    )


def columns(rows: Results) -> list[str]:
    """Accuracy of every number of neighbours and label column."""
    return [name for name in rows[0]["metrics"] if name.startswith("knn")]


TASK = Task(
    name="knn",
    description="Weighted k nearest neighbours on the image embeddings of every stage, every cumulative fusion and the "
    "fused model.",
    examples=(
        "mcl-knn --model runs/demo/fused --dataset runs/demo-data/zero_shot/texture --train-split test --limit 60",
        "mcl-knn --model runs/demo/stage_0 --dataset runs/demo-data/zero_shot/color --train-split test --neighbours 5 "
        "20 --output runs/demo-knn.json",
    ),
    place="--dataset",
    headline=lambda rows: [name for name in columns(rows) if "/" not in name],
    add_arguments=add_arguments,
    open=open_splits,
    score=score,
    columns=columns,
)
main = main_of(TASK)


if __name__ == "__main__":
    sys.exit(main())
