"""mcl-distill: a fused model in, one model of a stage's size out."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from torch.distributed.elastic.multiprocessing.errors import record

from mcl_clip.errors import UserError, exit_on_user_error
from mcl_clip.fusion.files import extract_stage, is_fused, load_fused
from mcl_clip.help_text import with_examples
from mcl_clip.launch import is_first_process, take_slurm
from mcl_clip.models.stage_model import is_stage
from mcl_clip.world import appears
from training.arrows.student import student_arguments
from training.main import main as train
from training.run_directory import FIRST, RECIPE, RunDirectory

EXTRACTED_WITHIN = 600.0  # seconds


@exit_on_user_error
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, on every rank of a job; the exit status is that of mcl-train."""
    take_slurm()
    options, flags = _parser().parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
    flags = [flag for flag in flags if flag != "--"]
    teacher, output = Path(options.teacher), Path(options.output)
    run = RunDirectory(teacher if (teacher / RECIPE).is_file() else teacher.parent)
    is_whole = teacher in (run.root, run.fused)
    if run.recipe.is_file() and (is_whole or is_fused(teacher)):
        plain = yaml.safe_load(run.recipe.read_text())
        if is_whole and not is_fused(run.fused):
            raise UserError(f"{run.root} has no fused model yet: train it to its end, then distill")
        student = options.student or (plain.get("distill") or {}).get("distill_student") or ""
        first = None if is_whole or student else _last_stage(teacher, output)
        fused = run.fused if is_whole else teacher
        told = student_arguments(plain, run, output, options.train_data or "", student, fused, first)
    elif is_fused(teacher):
        if not options.train_data:
            raise UserError(f"--train-data is missing: {teacher} is no run, whose data were known")
        told = ["--distill-model", str(teacher), "--train-data", options.train_data, "--mcl-base", "train"]
        told += ["--logs", str(output.parent), "--name", output.name]
        told += ["--model", options.student or f"local-dir:{_last_stage(teacher, output)}"]
    else:
        raise UserError(
            f"{teacher} is neither a run ({RECIPE}) nor a fused model; to learn from another: mcl-train --distill-model"
        )
    return train([*told, *flags])


def _last_stage(teacher: Path, output: Path) -> Path:
    """The last stage of a fused model as a directory of its own, from which the student starts."""
    directory = output / FIRST
    if is_first_process() and not is_stage(directory):
        output.mkdir(parents=True, exist_ok=True)
        fused = load_fused(teacher)
        extract_stage(fused, fused.num_stages - 1, directory)
    return appears(directory, seconds=EXTRACTED_WITHIN)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcl-distill",
        usage="mcl-distill RUN|FUSED --output DIR [--train-data DATA] [--student MODEL] [mcl-train's flags]",
        description=with_examples(
            ("mcl-distill runs/demo --output runs/demo-student --epochs 1 --train-num-samples 512",),
            "Train one model on the similarities of all stages fused. It starts from the last stage and is trained "
            "with the flags that this was trained with; mcl-train's flags behind RUN count instead. DIR is a run: "
            "DIR/stage_0/model is the student, and the same command goes on after an interruption.",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("teacher", metavar="RUN|FUSED", help="a run directory, or a fused model: inside a run with its data")
    add("--output", required=True, metavar="DIR", help="the student's run")
    add("--train-data", metavar="DATA", help="as of mcl-train (default: the run's)")
    add("--student", metavar="MODEL", help="--model of the student (default: the last stage, with its weights)")
    return parser


if __name__ == "__main__":
    sys.exit(record(main)())
