"""`python -m benchmarks.suppression`: train and score every arm on several seeds, and write docs/study/."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.study.schedule import run_all
from benchmarks.suppression.models import BASE, Arm, ablation_jobs, stage_names, study_arms, study_jobs
from benchmarks.suppression.page import ablation_record, write_page
from benchmarks.suppression.schedule import Series, units_of
from benchmarks.suppression.settings import ABLATIONS, QUICK, Settings
from benchmarks.suppression.summary import headline
from mcl_clip.artifacts import read_json
from mcl_clip.errors import UserError, exit_on_user_error

FIRST_SEED = 1  # seeds from 100 on were used to choose the setting


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suppression", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--ablations", action="store_true", help="run the ablations too, one seed each")
    parser.add_argument("--json", action="store_true", help="print the study as one line of JSON")
    parser.add_argument(
        "--results", type=Path, default=Path("runs/suppression"), help="finished models and scores stand here"
    )
    parser.add_argument("--report", type=Path, default=Path("docs/study"), help="where the report is written")
    parser.add_argument(
        "--processes", type=int, default=2, help="models trained at a time, one thread each (default 2)"
    )
    parser.add_argument("--quick", action="store_true", help="a minute's run that only shows that everything works")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.processes < 1:
        raise UserError("--seeds and --processes must be at least 1")
    settings = replace(Settings(), **QUICK) if args.quick else Settings()
    study = [study_series(settings, FIRST_SEED + number) for number in range(args.seeds)]
    ablations = (
        {name: ablation_series(settings, changed) for name, changed in ABLATIONS.items()} if args.ablations else {}
    )
    progress = sys.stderr.isatty()
    units = [unit for each in study for unit in units_of(each, args.results / "study")]
    units += [unit for each in ablations.values() for unit in units_of(each, args.results / "ablations")]
    run_all(units, processes=args.processes, progress=progress)
    seeds = [read_json(each.directory(args.results / "study") / "scores.json") for each in study]
    changed = {
        name: ablation_record(read_json(each.directory(args.results / "ablations") / "scores.json"))
        for name, each in ablations.items()
    }
    write_page(args.report, seeds, changed)
    if args.json:
        print(json.dumps({"benchmark": "suppression", **headline(seeds)}))
    else:
        print(f"report: {args.report / 'README.md'}")
    return 0


def study_series(settings: Settings, seed: int) -> Series:
    """All arms of one seed."""
    return Series(settings, seed, tuple(study_jobs(settings)), tuple(study_arms(settings)))


def ablation_series(settings: Settings, changed: dict) -> Series:
    """MCL from the previous stage under one changed setting, fused after every stage, on the first seed."""
    settings = replace(settings, **changed)
    names = [BASE, *stage_names("previous", settings.stages)]
    arms = [Arm("stage 0" if last == 0 else f"{last} further", tuple(names[: last + 1])) for last in range(len(names))]
    return Series(settings, FIRST_SEED, tuple(ablation_jobs(settings)), tuple(arms))


if __name__ == "__main__":
    sys.exit(main())
