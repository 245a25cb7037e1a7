"""`python -m benchmarks.emoji data|choose|one-tower|confirm|cost|report|all`: the study on real drawings."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.emoji.cost import write_costs
from benchmarks.emoji.data import generate
from benchmarks.emoji.drawings import SIDES
from benchmarks.emoji.figure import draw_pairs
from benchmarks.emoji.frozen import freeze
from benchmarks.emoji.held_out import HeldOut
from benchmarks.emoji.page import COSTS, write_page
from benchmarks.emoji.pretrained import Pretrained
from benchmarks.emoji.settings import (
    CHOOSING_ARTIST,
    CHOOSING_SEEDS,
    CONFIRMING_ARTISTS,
    CONFIRMING_SEEDS,
    REAL_TOWERS,
    STUDIES,
)
from benchmarks.emoji.towers import KEY
from benchmarks.emoji.towers import SIDE as REAL_SIDE
from benchmarks.study.models import Arm
from benchmarks.study.schedule import run_all
from benchmarks.study.settings import BASE, CONTROLS, MCL
from benchmarks.study.units import units_of
from mcl_clip.errors import UserError, exit_on_user_error

SIDE = 32
NOT_CHOSEN = "nothing is confirmed before it is chosen: benchmarks/emoji/settings.py, {}"


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    args = _parser().parse_args(argv)
    progress = sys.stderr.isatty()
    if args.command not in ("cost", "report") and args.processes < 1:
        raise UserError("--processes must be at least 1")
    if args.command in ("data", "all"):
        for side in (args.side,) if args.command == "data" else (SIDE, REAL_SIDE):
            data = generate(
                _data(args, side),
                args.results / "npm",
                side=side,
                seed=args.seed,
                processes=args.processes,
                progress=progress,
            )
            print(f"data: {data}")
            if side == SIDE:
                draw_pairs(args.report / "pairs.png", data)
    if args.command in ("choose", "one-tower", "confirm", "all"):
        wanted = list(_wanted(args))
        if REAL_TOWERS in args.towers:
            freeze(_data(args, REAL_SIDE), *_frozen(args), progress)
        units = [unit for place, arms in wanted for unit in units_of(place, arms)]
        run_all(units, processes=args.processes, progress=progress, what="epochs")
    chosen = STUDIES[REAL_TOWERS].chosen
    if args.command == "cost" and chosen is None:
        raise UserError(NOT_CHOSEN.format(REAL_TOWERS))
    if args.command in ("cost", "all") and chosen:
        places = (_pretrained(args, artist, CONFIRMING_SEEDS[0]) for artist in CONFIRMING_ARTISTS)
        write_costs(args.report / COSTS, places, chosen.arms()[MCL], progress)
    if args.command != "data":
        write_page(args.report)
        print(f"report: {args.report / 'README.md'}")
    return 0


def _wanted(args: argparse.Namespace) -> Iterator[tuple[HeldOut, list[Arm]]]:
    """Which arms to score where: seed by seed, the arms of the primary comparisons before all others."""
    for name in args.towers:
        study = STUDIES[name]
        if args.command == "one-tower":
            tries = args.tries or list(study.tries)
            for unknown in set(tries) - set(study.tries):
                raise UserError(f"--tries knows {', '.join(map(repr, study.tries))} of {name}, not {unknown!r}")
            for seed in CHOOSING_SEEDS[: args.seeds]:
                arms = [arm for each in tries for arm in study.tried(each, one_tower=True).values()]
                yield _place(args, name, CHOOSING_ARTIST, seed), arms
        if args.command in ("choose", "all"):
            for seed, arms in study.choosing():
                yield _place(args, name, CHOOSING_ARTIST, seed), arms
        if study.chosen is not None and args.command in ("confirm", "all"):
            secondary = study.chosen.arms()
            primary = [secondary.pop(arm) for arm in (BASE, MCL, *CONTROLS)]
            for arms in (primary, list(secondary.values())):
                for seed in CONFIRMING_SEEDS:
                    for artist in CONFIRMING_ARTISTS:
                        yield _place(args, name, artist, seed), arms
        if study.chosen is None and args.command == "confirm":
            raise UserError(NOT_CHOSEN.format(name))


def _place(args: argparse.Namespace, name: str, artist: str, seed: int) -> HeldOut:
    if name == REAL_TOWERS:
        return _pretrained(args, artist, seed)
    return HeldOut(args.results / "models", args.report / "units", seed, _data(args, SIDE), artist)


def _pretrained(args: argparse.Namespace, artist: str, seed: int) -> Pretrained:
    stand = args.results / "models", args.report / "units", seed, _data(args, REAL_SIDE), artist
    towers, kept = _frozen(args)
    return Pretrained(*stand, towers=towers, kept=kept)


def _data(args: argparse.Namespace, side: int) -> Path:
    return args.results / f"data-{side}"


def _frozen(args: argparse.Namespace) -> tuple[Path, Path]:
    return args.results / "towers", args.results / f"frozen-{KEY}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emoji", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="fetch the packages with npm and draw the data, reusing what is there")
    choose = commands.add_parser("choose", help=f"try settings on {CHOOSING_ARTIST}, which no claim is made on")
    one_tower = commands.add_parser(
        "one-tower", help="a student of MCL, the mean of its weights, and a longer run there"
    )
    confirm = commands.add_parser("confirm", help="train and score every arm, as chosen, on all other artists")
    cost = commands.add_parser("cost", help="what locked towers save, from confirmed stages of the real towers")
    report = commands.add_parser("report", help="write the report from the runs there are")
    everything = commands.add_parser("all", help="all of these, doing what is left to do")
    sides = ", ".join(map(str, SIDES))
    data.add_argument("--side", type=int, default=SIDE, help=f"pixels, one of {sides} (default {SIDE}, the study's)")
    data.add_argument(
        "--seed", type=int, default=0, help="of the order and of what is kept out (default 0, the study's)"
    )
    everything.set_defaults(seed=0)
    for command in (choose, one_tower, confirm, everything):
        command.add_argument(
            "--towers", nargs="+", choices=list(STUDIES), default=list(STUDIES), help="which study (default both)"
        )
    one_tower.add_argument("--tries", nargs="+", metavar="TRY", help="of settings.py (default all)")
    one_tower.add_argument("--seeds", type=int, default=len(CHOOSING_SEEDS), help="how many (default all)")
    for command in (data, choose, one_tower, confirm, cost, report, everything):
        command.add_argument(
            "--report", type=Path, default=Path("docs/study-emoji"), help="scores and report stand here"
        )
    for command in (data, choose, one_tower, confirm, cost, everything):
        command.add_argument("--results", type=Path, default=Path("runs/emoji"), help="data and models stand here")
    for command in (data, choose, one_tower, confirm, everything):
        command.add_argument("--processes", type=int, default=2, help="at a time, one thread each (default 2)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
