"""mcl-winoground: Winoground's text, image and group scores, on Winoground or NaturalBench-Retrieval."""

import argparse
import sys

from eval.command import main_of
from eval.data.limit import some
from eval.data.winoground import BENCHMARKS, Example, open_examples
from eval.models import ScoredModel
from eval.task import Results, Task
from eval.tasks.winoground import evaluate

__all__ = ["TASK", "evaluate", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The benchmark and where it stands."""
    parser.add_argument("--benchmark", choices=tuple(BENCHMARKS), default="winoground")
    parser.add_argument(
        "--data",
        help="the benchmark as published (a folder), as a table (a folder or a .parquet), or examples of your own (a "
        ".json or .jsonl); by default the hub's",
    )
    parser.add_argument("--images", help="of examples: the folder of their images (default: that of the list)")


def open_data(args: argparse.Namespace) -> list[Example]:
    """The examples that the flags name."""
    return some(open_examples(args.benchmark, args.data, args.images), args.limit)


def score(scored: ScoredModel, data: list[Example], args: argparse.Namespace) -> Results:
    """Every row of the model."""
    return evaluate(scored, data, benchmark=args.benchmark, batch_size=args.batch_size, progress=args.progress)


TASK = Task(
    name="winoground",
    description="Two images and two captions: does each find its own? Text, image and group score of every stage, "
    "every cumulative fusion and the fused model. Chance is 25, 25 and 16.7 %. Winoground is gated: accept its terms "
    "on the hub first.",
    examples=(
        "mcl-winoground --model runs/demo/fused --data runs/demo-data/captions/examples.jsonl --images "
        "runs/demo-data/mmvp",
        "mcl-winoground --model runs/demo/stage_0 --data runs/demo-data/captions/examples.jsonl --images "
        "runs/demo-data/mmvp --limit 40 --output runs/demo-winoground.json",
    ),
    place="--data",
    headline=lambda rows: ["group_score", "text_score", "image_score"],
    add_arguments=add_arguments,
    open=open_data,
    score=score,
    columns=lambda rows: ["group_score", "text_score", "image_score"],
)
main = main_of(TASK)


if __name__ == "__main__":
    sys.exit(main())
