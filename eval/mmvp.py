"""mcl-mmvp: the MMVP-VLM benchmark and sets like it, for every stage and the fused model."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from eval.command import main_of
from eval.data.limit import some
from eval.data.mmvp import REVISION, MMVPPair, download, read_pairs
from eval.models import ScoredModel
from eval.report.pair_listing import write_csv
from eval.report.pair_page import write_page
from eval.task import Results, Task
from eval.tasks.mmvp import PROMPT, evaluate, results, score_rows
from eval.tasks.pair_choices import from_result

__all__ = ["TASK", "evaluate", "main"]


@dataclass(frozen=True)
class Pairs:
    """A set of pairs by name; revision: of the published set, empty for local data."""

    name: str
    pairs: list[MMVPPair]
    revision: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The pairs, and how they are listed."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="folder with Questions.csv and the images by Type")
    source.add_argument("--download", action="store_true", help=f"fetch the published set, revision {REVISION[:8]}")
    parser.add_argument("--prompt", default=PROMPT, help=f"stands before every statement (default {PROMPT!r})")
    parser.add_argument("--csv", help="write every pair's similarities and choices")
    parser.add_argument("--html", help="write the pairs as pictures, right and wrong marked")


def open_data(args: argparse.Namespace) -> Pairs:
    """The pairs that the flags name."""
    directory = download() if args.download else Path(args.data)
    name, revision = ("mmvp_vlm", REVISION) if args.download else (directory.resolve().name, "")
    return Pairs(name, some(read_pairs(directory), args.limit), revision)


def score(scored: ScoredModel, data: Pairs, args: argparse.Namespace) -> Results:
    """Every row of the model; the pairs are listed where that is asked for."""
    scores, content = score_rows(
        scored, data.pairs, prompt=args.prompt, batch_size=args.batch_size, progress=args.progress
    )
    rows = results(scored, data.pairs, scores, dataset=data.name, revision=data.revision or content, prompt=args.prompt)
    if args.csv:
        write_csv(args.csv, data.pairs, scores)
    if args.html:
        sides = [from_result(row, row["model"], args.html) for row in (rows[0], rows[-1])]
        write_page(args.html, data.pairs, sides[0], sides[-1 if len(rows) > 1 else 0], f"{scored.name}.")
    return rows


def columns(rows: Results) -> list[str]:
    """The mean, every Type, and what else tells."""
    types = [name for name in rows[0]["metrics"] if name.startswith("pair_accuracy/")]
    return ["pair_accuracy", *types, "text_accuracy", "same_image_rate"]


TASK = Task(
    name="mmvp",
    description="Score MMVP-VLM, or a set like it: of two images that differ in one visual pattern, does each text "
    "pick its own? Every stage, every cumulative fusion and the fused model are scored in one pass. Chance is 25 %.",
    examples=(
        "mcl-mmvp --model runs/demo/fused --data runs/demo-data/mmvp --html runs/demo-pairs.html",
        "mcl-mmvp --model runs/demo/stage_0,runs/demo/stage_1 --data runs/demo-data/mmvp --limit 40 --output "
        "runs/demo-mmvp.json --csv runs/demo-pairs.csv",
    ),
    place="--data",
    headline=lambda rows: ["pair_accuracy"],
    add_arguments=add_arguments,
    open=open_data,
    score=score,
    columns=columns,
)
main = main_of(TASK)


if __name__ == "__main__":
    sys.exit(main())
