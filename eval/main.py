"""mcl-eval: many tasks, one load of the model, one table, a scores file a task."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from eval import suite
from eval.all_ranks import on_all_ranks
from eval.command import add_model_arguments, add_pass_arguments, check_outputs, joined, load_scored_model, new_parser
from eval.models import ScoredModel
from eval.scores import SUITE, interval, lay_out, percent, write_scores
from eval.suite import Entry, Planned
from eval.task import Results
from mcl_clip.artifacts import atomic_path, check_place
from mcl_clip.errors import UserError, exit_on_user_error, machine_error
from mcl_clip.launch import is_first_process
from mcl_clip.openclip.distributed import check_device

EXAMPLES = (
    "mcl-eval --model runs/demo/fused --tasks mmvp:runs/demo-data/mmvp,zero-shot:runs/demo-data/zero_shot/texture "
    "--output runs/demo-eval",
    "mcl-eval --model runs/demo/stage_0,runs/demo/stage_2 --limit 40 --output runs/demo-eval-stages --tasks "
    "retrieval:runs/demo-data/captions/captions.json:images=runs/demo-data/mmvp "
    "sugarcrepe:runs/demo-data/captions:images=runs/demo-data/mmvp:categories=replace_att "
    "winoground:runs/demo-data/captions/examples.jsonl:images=runs/demo-data/mmvp "
    "linear-probe:runs/demo-data/zero_shot/color:train-split=test",
)


@dataclass(frozen=True)
class Outcome:
    """Of one task: its results, or why there are none."""

    results: Results
    error: str = ""


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit status 2 when a task failed, after all others are scored."""
    parser = new_parser(
        "mcl-eval",
        EXAMPLES,
        f"Score a model on many tasks: {', '.join(suite.TASKS)}. It is loaded once; every task leaves the scores file "
        "of its own command, and one table is printed. A task that fails is told and does not lose the others. Under "
        "torchrun (torchrun -m eval.main ...) zero-shot sets are shared among the ranks, the first scores the others.",
    )
    add_model_arguments(parser)
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="NAME:PLACE[:KEY=VALUE]..., several by comma or space; PLACE is the data set or folder, keys are flags of "
        "mcl-NAME and `name`, of the scores file: zero-shot:imagenet:split=val:name=imagenet; lists need --suite",
    )
    asked.add_argument("--suite", help="YAML file with a list `tasks` of such words, or of {NAME: PLACE, KEY: VALUE}")
    parser.add_argument("--output", required=True, type=Path, help="directory of the scores, one file a task")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    add_pass_arguments(parser)
    args = parser.parse_args(argv)
    entries = suite.from_file(args.suite) if args.suite else suite.from_words(args.tasks)
    planned = suite.plan(entries, batch_size=args.batch_size, limit=args.limit)
    check_device(args.device)
    if is_first_process():
        check_place("--output", args.output, directory=True)
    for each in planned:
        check_outputs(each.args)
    shared = [each for each in planned if each.task.shares_images]
    outcomes: dict[str, Outcome] = {}
    with joined(args, True):
        if args.rank and not shared:
            return 0
        scored = load_scored_model(args)
        for each in shared:
            outcomes[each.name] = attempt(scored, each, args)
    if args.rank:
        return 0
    for each in planned:
        if each.name not in outcomes:
            outcomes[each.name] = attempt(scored, each, argparse.Namespace(**vars(args) | {"world_size": 1}))
    errors = {each.name: error for each in planned if (error := outcomes[each.name].error)}
    size = args.batch_size if args.batch_size != parser.get_default("batch_size") else None
    asked_for = suite.with_options(entries, limit=args.limit, batch_size=size)
    write_suite(args.output / SUITE, asked_for, args.model, errors)
    print(summary(planned, outcomes, args.markdown))
    return 2 if errors else 0


def attempt(scored: ScoredModel, planned: Planned, job: argparse.Namespace) -> Outcome:
    """Read, score and write one task, on every rank of the job; what goes wrong is said here and is its outcome.

    Earlier scores are set aside, as NAME.json.before, until the new ones stand: they may be another model's.
    """
    task, args = planned.task, planned.args
    path = job.output / f"{planned.name}.json"
    before = path.with_name(f"{path.name}.before")
    args.rank, args.world_size, args.progress = job.rank, job.world_size, job.progress
    try:
        if args.rank == 0 and path.exists():
            path.replace(before)
        data = on_all_ranks(lambda: task.open(args), args.world_size)
        results = task.results(scored, data, args)
        if args.rank == 0:
            write_scores(path, results)
            before.unlink(missing_ok=True)
        return Outcome(results)
    except Exception as raised:
        message = str(raised) if isinstance(raised, UserError) else machine_error(raised)
        if message is None:  # none of the user's: the others are scored all the same
            traceback.print_exc()
            message = f"{type(raised).__name__}: {raised}"
        message = " ".join(message.split())
        if args.rank == 0:
            print(f"error: {planned.name}: {message}", file=sys.stderr)
        return Outcome([], message)


def summary(planned: Sequence[Planned], outcomes: dict[str, Outcome], markdown: bool = False) -> str:
    """The one table: a line a task and metric in percent, a column a row of the model, the last with its interval."""
    models = list(dict.fromkeys(row["model"] for outcome in outcomes.values() for row in outcome.results))
    header = ["task", "metric", *models, "95 % interval"]
    lines = []
    for each in planned:
        outcome = outcomes[each.name]
        if outcome.error:
            lines.append([each.name, "failed", *["-"] * len(models), "-"])
            continue
        for metric in each.task.headline(outcome.results):
            values = [percent(row["metrics"].get(metric)) for row in outcome.results]
            lines.append([each.name, metric, *values, interval(outcome.results[-1]["intervals"].get(metric))])
    told = [f"{each.name} failed: {outcomes[each.name].error}" for each in planned if outcomes[each.name].error]
    return "\n".join([lay_out(header, lines, markdown), *([""] if told and markdown else []), *told])


def write_suite(path: Path, entries: Sequence[Entry], model: str, errors: dict[str, str]) -> None:
    """What was asked for, as a suite file, and what failed."""
    content = {"model": model, "tasks": [entry.as_mapping() for entry in entries], "failed": errors}
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    sys.exit(main())
