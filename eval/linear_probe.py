"""mcl-linear-probe: what a linear classifier reads from the image embeddings of every stage and fusion."""

import argparse
import sys

from eval.command import main_of
from eval.models import ScoredModel
from eval.splits import Split, add_split_arguments, open_splits
from eval.task import Results, Task
from eval.tasks.linear_probe import evaluate
from mcl_clip.errors import UserError

__all__ = ["TASK", "evaluate", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set, its two splits, and what the regularisation is chosen by."""
    add_split_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)


def open_data(args: argparse.Namespace) -> tuple[Split, Split]:
    """The split to fit on and the one to score."""
    if args.seed < 0:
        raise UserError("--seed must not be negative")
    return open_splits(args)


def score(scored: ScoredModel, data: tuple[Split, Split], args: argparse.Namespace) -> Results:
    """Every row of the model."""
    train, test = data
    return evaluate(scored, train, test, seed=args.seed, batch_size=args.batch_size, progress=args.progress)


def columns(rows: Results) -> list[str]:
    """Accuracy and recall, of every label column."""
    return [name for name in rows[0]["metrics"] if name.startswith("lp_")]


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
    headline=lambda rows: [name for name in columns(rows) if "/" not in name],
    add_arguments=add_arguments,
    open=open_data,
    score=score,
    columns=columns,
)
main = main_of(TASK)


if __name__ == "__main__":
    sys.exit(main())
