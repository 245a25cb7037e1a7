"""`python -m benchmarks.suppression COMMAND`: the study in a generated world, docs/study/."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.study.command import run_study, study_parser
from benchmarks.study.models import Arm
from benchmarks.study.settings import BASE, CONTROLS, LONGER, MCL, SOUP
from benchmarks.suppression.ablations import ablations
from benchmarks.suppression.generated import Generated
from benchmarks.suppression.page import write_page
from benchmarks.suppression.settings import (
    CHOOSING_SEEDS,
    CHOSEN,
    ORACLE_SEEDS,
    QUICK,
    QUICK_WORLD,
    SEEDS,
    Settings,
    World,
    tried_students,
    tries,
)
from benchmarks.suppression.summary import headline
from mcl_clip.errors import exit_on_user_error

COMMANDS = {
    "choose": "try every arm's learning rate on seeds of its own",
    "confirm": "train and score every arm, as chosen, on all seeds",
    "choose-student": "try how a student of MCL learns, on the same seeds",
    "confirm-student": "train and score the student, as chosen, and its rivals, on all seeds",
    "ablate": "change one setting at a time, on one seed",
    "quick": "a minute's run of every arm that only shows that everything works",
    "report": "write the report from the runs there are",
    "all": "choose, confirm and report, doing what is left to do",
}


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser, _ = study_parser("suppression", __doc__, COMMANDS, Path("docs/study"))
    return run_study("suppression", parser.parse_args(argv), _wanted, write_page, headline)


def _wanted(args: argparse.Namespace) -> Iterator[tuple[Generated, list[Arm]]]:
    """Which arms to score where: seed by seed, the arms of the primary comparisons before all others."""
    if args.command == "quick":
        settings = replace(Settings(), **QUICK)
        arms = [*settings.arms().values(), *settings.oracle().values(), *settings.one_tower().values()]
        yield _place(args, SEEDS[0], replace(World(), **QUICK_WORLD)), arms
    if args.command in ("choose", "all"):
        for seed in CHOOSING_SEEDS:
            yield _place(args, seed), [arm for by_rate in tries().values() for arm in by_rate.values()]
    if args.command in ("confirm", "all"):
        others, oracle = CHOSEN.arms(), CHOSEN.oracle()
        primary = [others.pop(name) for name in (BASE, MCL, *CONTROLS)]
        for seed in SEEDS:
            yield _place(args, seed), primary
        for seed in SEEDS:
            yield _place(args, seed), [*others.values(), *(oracle.values() if seed in ORACLE_SEEDS else ())]
    if args.command in ("choose-student", "all"):
        for seed in CHOOSING_SEEDS:
            yield _place(args, seed), [CHOSEN.one_tower()[SOUP], *tried_students().values()]
    if args.command in ("confirm-student", "all"):
        rivals = CHOSEN.one_tower()
        longer = rivals.pop(LONGER)
        for seed in SEEDS:
            yield _place(args, seed), list(rivals.values())
        for seed in SEEDS:
            yield _place(args, seed), [longer]
    if args.command == "ablate":
        for shape, arms in ablations().values():
            yield _place(args, SEEDS[0], shape), arms


def _place(args: argparse.Namespace, seed: int, shape: World | None = None) -> Generated:
    return Generated(args.results, args.report / "units", seed, shape or World())


if __name__ == "__main__":
    sys.exit(main())
