"""`python -m benchmarks.images choose|confirm|ablate|report|all`: the study on images alone, docs/study-images/."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.images import ablations
from benchmarks.images.page import write_page
from benchmarks.images.places import Drawings, Trifeature, TwoViewPlace
from benchmarks.images.settings import (
    CHOOSING_SEEDS,
    CHOSEN,
    QUICK,
    QUICK_WORLD,
    SEEDS,
    Settings,
    World,
    rules,
    short,
    tries,
)
from benchmarks.images.summary import finished, headline
from benchmarks.study.command import run_study, study_parser
from benchmarks.study.models import Arm
from benchmarks.study.settings import BASE, CONTROLS, MCL
from mcl_clip.errors import exit_on_user_error

COMMANDS = {
    "choose": "try every arm's learning rate, and MCL's rule, on seeds of their own",
    "confirm": "train and score every arm, as chosen, on all seeds",
    "ablate": "with colour jitter, and on emoji, on two seeds",
    "quick": "a minute's run of every arm that only shows that everything works",
    "report": "write the report from the runs there are",
    "all": "all of these, doing what is left to do",
}


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = _parser().parse_args(argv)
    return run_study("images", args, _wanted, write_page, lambda found: headline(found) if finished(found) else {})


def _wanted(args: argparse.Namespace) -> Iterator[tuple[TwoViewPlace, list[Arm]]]:
    """Which arms to score where: seed by seed, the arms of the primary comparisons before all others."""
    if args.command == "quick":
        shape = replace(World(), **QUICK_WORLD)
        yield _trifeature(args, SEEDS[0], shape), list(replace(Settings(), **QUICK).arms().values())
    if args.command in ("choose", "all"):
        for seed in CHOOSING_SEEDS:
            rates = [arm for by_rate in tries().values() for arm in by_rate.values()]
            yield _trifeature(args, seed), [*rules().values(), *rates, *short()]
    if args.command in ("confirm", "all"):
        others = CHOSEN.arms()
        primary = [others.pop(name) for name in (BASE, MCL, *CONTROLS)]
        for seed in SEEDS:
            yield _trifeature(args, seed), primary
        for seed in SEEDS:
            yield _trifeature(args, seed), list(others.values())
    if args.command in ("ablate", "all"):
        for seed in ablations.SEEDS:
            yield _trifeature(args, seed), ablations.arms_of(ablations.COLOUR)
        for seed in ablations.SEEDS:
            yield _drawings(args, seed), ablations.arms_of(ablations.EMOJI)


def _trifeature(args: argparse.Namespace, seed: int, shape: World | None = None) -> Trifeature:
    return Trifeature(args.results, args.report / "units", seed, shape or World())


def _drawings(args: argparse.Namespace, seed: int) -> Drawings:
    return Drawings(args.results, args.report / "units", seed, args.emoji)


def _parser() -> argparse.ArgumentParser:
    parser, commands = study_parser("images", __doc__, COMMANDS, Path("docs/study-images"))
    data = Path("runs/emoji/data-32")
    for name in ("ablate", "all"):
        commands[name].add_argument(
            "--emoji", type=Path, default=data, help=f"as `python -m benchmarks.emoji data` wrote it ({data})"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
