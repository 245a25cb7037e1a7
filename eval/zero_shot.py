"""mcl-zero-shot: zero-shot classification of every stage and the fused model, in one pass over the images."""

import argparse
import sys
from pathlib import Path

from eval.command import add_column_arguments, main_of, tell
from eval.data.classification import open_set
from eval.data.classification_set import ClassificationSet
from eval.data.limit import some_images
from eval.models import ScoredModel
from eval.scores import write_clip_benchmark
from eval.task import Results, Task
from eval.tasks.text_classifier import default_cache
from eval.tasks.zero_shot import evaluate

__all__ = ["TASK", "evaluate", "main"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set, its prompts, and what is kept beside the scores."""
    parser.add_argument(
        "--dataset",
        required=True,
        help="a hub id or folder that `datasets` reads, CLIP_benchmark's WebDataset layout, or a folder per class",
    )
    parser.add_argument("--split", default="test", help="of the data set (default test)")
    parser.add_argument(
        "--templates",
        help="openai (80), simple (7), or a file with a template a line, {} or {c} for the class; by default the "
        "set's own, else openai",
    )
    parser.add_argument("--classnames", help="file with a class name a line; by default the set's own")
    add_column_arguments(parser)
    parser.add_argument("--confusion", action="store_true", help="record the confusion matrix")
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=default_cache(),
        help="keeps text classifiers by model and prompts (default $MCL_CLIP_CACHE or ~/.cache/mcl_clip)",
    )
    parser.add_argument("--no-cache", action="store_true", help="neither read nor keep text classifiers")
    parser.add_argument("--clip-benchmark-dir", help="also write one file a row, for `clip_benchmark build`")


def open_data(args: argparse.Namespace) -> ClassificationSet:
    """The set that the flags name."""
    data = open_set(
        args.dataset,
        args.split,
        templates=args.templates,
        classnames=args.classnames,
        image_column=args.image_column,
        label_column=args.label_column,
        revision=args.revision,
    )
    tell(data.notes)
    return some_images(data, args.limit)


def score(scored: ScoredModel, data: ClassificationSet, args: argparse.Namespace) -> Results:
    """Every row of the model, on every rank."""
    return evaluate(
        scored,
        data,
        batch_size=args.batch_size,
        confusion=args.confusion,
        cache=None if args.no_cache else args.cache_dir,
        rank=args.rank,
        world_size=args.world_size,
        progress=args.progress,
    )


def also_write(rows: Results, args: argparse.Namespace) -> None:
    """CLIP_benchmark's files."""
    if args.clip_benchmark_dir:
        write_clip_benchmark(args.clip_benchmark_dir, rows)


TASK = Task(
    name="zero-shot",
    description="Zero-shot classification of every stage, every cumulative fusion and the fused model, in one pass "
    "over the images. Under torchrun (torchrun -m eval.zero_shot ...) the images are shared among the ranks.",
    examples=(
        "mcl-zero-shot --model runs/demo/fused --dataset runs/demo-data/zero_shot/texture",
        "mcl-zero-shot --model runs/demo/stage_0,runs/demo/stage_2 --dataset runs/demo-data/zero_shot/color "
        "--templates simple --output runs/demo-color.json",
    ),
    place="--dataset",
    headline=lambda rows: ["acc1", "mean_per_class_recall"],
    add_arguments=add_arguments,
    open=open_data,
    score=score,
    columns=lambda rows: ["acc1", "acc5", "mean_per_class_recall"],
    shares_images=True,
    also_write=also_write,
)
main = main_of(TASK)


if __name__ == "__main__":
    sys.exit(main())
