"""The command line that the studies share: which units there are to run, then the report from all there are."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.study.models import Arm
from benchmarks.study.place import Place
from benchmarks.study.results import Results, read_results
from benchmarks.study.schedule import run_all
from benchmarks.study.units import units_of
from mcl_clip.errors import UserError

REPORT = "report"
"""The command that runs nothing."""


def study_parser(
    name: str, description: str | None, commands: Mapping[str, str], report: Path
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of `python -m benchmarks.NAME`, and those of its commands; {command: help}."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    added = parser.add_subparsers(dest="command", required=True)
    found = {command: added.add_parser(command, help=told) for command, told in commands.items()}
    for command, options in found.items():
        options.add_argument("--report", type=Path, default=report, help="scores and report stand here")
        options.add_argument("--json", action="store_true", help="print the study as one line of JSON")
        if command != REPORT:
            results = Path("runs") / name
            options.add_argument("--results", type=Path, default=results, help="trained models stand here")
            options.add_argument("--processes", type=int, default=2, help="at a time, one thread each (default 2)")
    return parser, found


def run_study(
    name: str,
    args: argparse.Namespace,
    wanted: Callable[[argparse.Namespace], Iterable[tuple[Place, list[Arm]]]],
    write_page: Callable[[Path, Results], None],
    headline: Callable[[Results], dict[str, Any]],
) -> int:
    """Run what is left to do of `wanted`, arms by place, and write the page; the exit status."""
    if args.command != REPORT:
        if args.processes < 1:
            raise UserError("--processes must be at least 1")
        units = [unit for place, arms in wanted(args) for unit in units_of(place, arms)]
        run_all(units, processes=args.processes, progress=sys.stderr.isatty(), what="epochs")
    results = read_results(args.report / "units")
    write_page(args.report, results)
    if args.json:
        print(json.dumps({"benchmark": name, **headline(results)}))
    else:
        print(f"report: {args.report / 'README.md'}")
    return 0
