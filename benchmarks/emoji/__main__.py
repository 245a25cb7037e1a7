"""`python -m benchmarks.emoji data|choose|confirm|report|all`: the study on real drawings, docs/study-emoji/."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.emoji.data import generate
from benchmarks.emoji.drawings import SIDES
from benchmarks.emoji.figure import draw_pairs
from benchmarks.emoji.held_out import HeldOut
from benchmarks.emoji.page import write_page
from benchmarks.emoji.settings import (
    CHOOSING_ARTIST,
    CHOOSING_SEEDS,
    CHOSEN,
    CONFIRMING_ARTISTS,
    CONFIRMING_SEEDS,
    TRIED_ARMS,
    TRIES,
)
from benchmarks.study.models import Arm
from benchmarks.study.schedule import run_all
from benchmarks.study.settings import Settings
from benchmarks.study.units import units_of
from mcl_clip.errors import UserError, exit_on_user_error

SIDE = 32


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = _parser().parse_args(argv)
    progress = sys.stderr.isatty()
    if args.command != "report" and args.processes < 1:
        raise UserError("--processes must be at least 1")
    if args.command in ("data", "all"):
        data = generate(
            args.results / f"data-{args.side}",
            args.results / "npm",
            side=args.side,
            seed=args.seed,
            processes=args.processes,
            progress=progress,
        )
        print(f"data: {data}")
        if args.side == SIDE:
            draw_pairs(args.report / "pairs.png", data)
    if args.command in ("choose", "confirm", "all"):
        units = [unit for place, arms in _wanted(args) for unit in units_of(place, arms)]
        run_all(units, processes=args.processes, progress=progress, what="epochs")
    if args.command != "data":
        write_page(args.report)
        print(f"report: {args.report / 'README.md'}")
    return 0


def _wanted(args: argparse.Namespace) -> Iterator[tuple[HeldOut, list[Arm]]]:
    """Which arms to score where: seed by seed, so that every seed is whole before the next one starts."""
    if args.command != "confirm":
        for name in args.tries:
            if name not in TRIES:
                raise UserError(f"--tries knows {', '.join(map(repr, TRIES))}, not {name!r}")
        tries = [replace(Settings(), **TRIES[name]).arms() for name in args.tries]
        for seed in CHOOSING_SEEDS[: args.seeds]:
            yield _place(args, CHOOSING_ARTIST, seed), [found[arm] for found in tries for arm in TRIED_ARMS]
    if CHOSEN is not None and args.command != "choose":
        for seed in CONFIRMING_SEEDS:
            for artist in CONFIRMING_ARTISTS:
                yield _place(args, artist, seed), list(CHOSEN.arms().values())
    if CHOSEN is None and args.command == "confirm":
        raise UserError("nothing is confirmed before it is chosen: set CHOSEN in benchmarks/emoji/settings.py")


def _place(args: argparse.Namespace, artist: str, seed: int) -> HeldOut:
    return HeldOut(args.results / "models", args.report / "units", seed, args.results / f"data-{SIDE}", artist)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emoji", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="fetch the packages with npm and draw the data, reusing what is there")
    choose = commands.add_parser("choose", help=f"try settings on {CHOOSING_ARTIST}, which no claim is made on")
    confirm = commands.add_parser("confirm", help="train and score every arm, as chosen, on all other artists")
    report = commands.add_parser("report", help="write the report from the runs there are")
    everything = commands.add_parser("all", help="all of these, doing what is left to do")
    sides = ", ".join(map(str, SIDES))
    data.add_argument("--side", type=int, default=SIDE, help=f"pixels, one of {sides} (default {SIDE}, the study's)")
    data.add_argument(
        "--seed", type=int, default=0, help="of the order and of what is kept out (default 0, the study's)"
    )
    everything.set_defaults(side=SIDE, seed=0)
    for command in (choose, everything):
        command.add_argument(
            "--tries", nargs="+", default=list(TRIES), metavar="TRY", help="of settings.py (default all)"
        )
        command.add_argument("--seeds", type=int, default=len(CHOOSING_SEEDS), help="how many (default all)")
    for command in (data, choose, confirm, report, everything):
        command.add_argument(
            "--report", type=Path, default=Path("docs/study-emoji"), help="scores and report stand here"
        )
    for command in (data, choose, confirm, everything):
        command.add_argument("--results", type=Path, default=Path("runs/emoji"), help="data and models stand here")
        command.add_argument("--processes", type=int, default=2, help="at a time, one thread each (default 2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
