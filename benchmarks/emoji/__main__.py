"""`python -m benchmarks.emoji data | choose | confirm | report`: the study on real drawings, docs/study-emoji/."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.emoji.data import generate
from benchmarks.emoji.drawings import SIDES
from benchmarks.emoji.settings import (
    CHOOSING_ARTIST,
    CHOOSING_SEEDS,
    CHOSEN,
    CONFIRMING_ARTISTS,
    CONFIRMING_SEEDS,
    TRIED_ARMS,
    TRIES,
    Settings,
)
from benchmarks.emoji.units import Place, units_of
from benchmarks.study.schedule import Unit, run_all
from mcl_clip.errors import UserError, exit_on_user_error

SIDE = 32


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = _parser().parse_args(argv)
    if args.processes < 1:
        raise UserError("--processes must be at least 1")
    progress = sys.stderr.isatty()
    if args.command == "data":
        data = generate(
            args.results / f"data-{args.side}",
            args.results / "npm",
            side=args.side,
            seed=args.seed,
            processes=args.processes,
            progress=progress,
        )
        print(f"data: {data}")
        return 0
    run_all(_units(args), processes=args.processes, progress=progress, what="epochs")
    return 0


def _units(args: argparse.Namespace) -> list[Unit]:
    """What is left to do, seed by seed, so that every seed is whole before the next one starts."""
    if args.command == "choose":
        for name in args.tries:
            if name not in TRIES:
                raise UserError(f"--tries knows {', '.join(map(repr, TRIES))}, not {name!r}")
        tries = [replace(Settings(), **TRIES[name]).arms() for name in args.tries]
        arms = [found[arm] for found in tries for arm in TRIED_ARMS]
        places = [_place(args, CHOOSING_ARTIST, seed) for seed in CHOOSING_SEEDS[: args.seeds]]
    else:
        if CHOSEN is None:
            raise UserError("nothing is confirmed before it is chosen: set CHOSEN in benchmarks/emoji/settings.py")
        arms = list(CHOSEN.arms().values())
        places = [_place(args, artist, seed) for seed in CONFIRMING_SEEDS for artist in CONFIRMING_ARTISTS]
    return [unit for place in places for unit in units_of(place, arms)]


def _place(args: argparse.Namespace, artist: str, seed: int) -> Place:
    return Place(args.results / f"data-{SIDE}", args.results / "models", args.report / "units", artist, seed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emoji", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="fetch the packages with npm and draw the data, reusing what is there")
    data.add_argument(
        "--side", type=int, default=SIDE, help=f"pixels, one of {', '.join(map(str, SIDES))} (default 32)"
    )
    data.add_argument("--seed", type=int, default=0, help="of the order, and of the captions kept out (default 0)")
    choose = commands.add_parser("choose", help=f"try settings on {CHOOSING_ARTIST}, which no claim is made on")
    choose.add_argument("--tries", nargs="+", default=list(TRIES), metavar="TRY", help="of settings.py (default all)")
    choose.add_argument("--seeds", type=int, default=len(CHOOSING_SEEDS), help="how many (default all)")
    confirm = commands.add_parser("confirm", help="train and score every arm, once, on all other artists")
    for command in (data, choose, confirm):
        command.add_argument("--results", type=Path, default=Path("runs/emoji"), help="data and models stand here")
        command.add_argument("--processes", type=int, default=2, help="at a time, one thread each (default 2)")
    for command in (choose, confirm):
        command.add_argument(
            "--report", type=Path, default=Path("docs/study-emoji"), help="scores and report stand here"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
