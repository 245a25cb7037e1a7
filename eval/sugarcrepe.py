"""mcl-sugarcrepe: SugarCrepe (Hsieh et al., arXiv 2306.14610), for every stage and the fused model."""

import argparse
import sys

from eval.command import main_of
from eval.data.limit import some_captioned
from eval.data.sugarcrepe import CATEGORIES, Category, open_category, open_sugarcrepe
from eval.models import ScoredModel
from eval.task import Results, Task
from eval.tasks.sugarcrepe import evaluate

__all__ = ["TASK", "evaluate", "main", "open_category", "open_sugarcrepe"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The categories and where they stand."""
    parser.add_argument(
        "--data", help="folder with NAME.json as the authors publish it, or a folder a category; by default the hub's"
    )
    parser.add_argument("--images", help="of the authors' JSON: COCO's val2017 (default: val2017 in --data)")
    parser.add_argument("--categories", nargs="+", choices=CATEGORIES, default=CATEGORIES)


def open_data(args: argparse.Namespace) -> list[Category]:
    """The categories that the flags name."""
    names = dict.fromkeys(args.categories)
    return [some_captioned(open_category(name, args.data, args.images), args.limit) for name in names]


def score(scored: ScoredModel, data: list[Category], args: argparse.Namespace) -> Results:
    """Every row of the model."""
    return evaluate(scored, data, batch_size=args.batch_size, progress=args.progress)


def columns(rows: Results) -> list[str]:
    """The mean and every category."""
    return ["accuracy", *(key for name in CATEGORIES if (key := f"accuracy/{name}") in rows[0]["metrics"])]


TASK = Task(
    name="sugarcrepe",
    description="SugarCrepe: is an image closer to its caption than to a hard negative? Every stage, every cumulative "
    "fusion and the fused model are scored in one pass. Chance is 50 %.",
    examples=(
        "mcl-sugarcrepe --model runs/demo/fused --data runs/demo-data/captions --images runs/demo-data/mmvp "
        "--categories replace_att",
        "mcl-sugarcrepe --model runs/demo/stage_0 --data runs/demo-data/captions --images runs/demo-data/mmvp "
        "--categories replace_att --limit 40 --output runs/demo-sugarcrepe.json",
    ),
    place="--data",
    headline=lambda rows: ["accuracy"],
    add_arguments=add_arguments,
    open=open_data,
    score=score,
    columns=columns,
)
main = main_of(TASK)


if __name__ == "__main__":
    sys.exit(main())
