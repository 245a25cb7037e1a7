"""What the scorers' commands share: the flags of model, data and output, and the command that a task makes."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

import mcl_clip
from eval.data.images import THREADS
from eval.models import ScoredModel
from eval.scores import table, write_scores
from eval.task import Task
from mcl_clip.artifacts import check_place
from mcl_clip.errors import UserError, exit_on_user_error
from mcl_clip.fusion.load import counted
from mcl_clip.help_text import with_examples
from mcl_clip.launch import is_first_process, one_process
from mcl_clip.openclip.distributed import check_device, init_distributed_device


def main_of(task: Task) -> Callable[..., int]:
    """The command of one task; of several ranks all work where they share the images, else the first."""

    def main(argv: Sequence[str] | None = None) -> int:
        parser = new_parser(f"mcl-{task.name}", task.examples, task.description)
        add_model_arguments(parser)
        task.add_arguments(parser)
        add_pass_arguments(parser)
        add_output_arguments(parser)
        args = parser.parse_args(argv)
        check_device(args.device)
        check_outputs(args)
        data = task.open(args)
        with joined(args, task.shares_images):
            rows = task.results(load_scored_model(args), data, args)
        if args.rank == 0:
            show(rows, task.columns(rows), args)
        return 0

    return exit_on_user_error(main if task.shares_images else one_process(main))


def new_parser(prog: str, examples: Sequence[str], description: str) -> argparse.ArgumentParser:
    """A parser whose help begins with examples."""
    return argparse.ArgumentParser(
        prog=prog,
        description=with_examples(examples, description),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


@contextlib.contextmanager
def joined(args: argparse.Namespace, together: bool) -> Iterator[None]:
    """Sets `rank`, `world_size` and `progress` of the arguments; ranks that work together share a process group."""
    args.rank, args.world_size = 0, 1
    if together:
        init_distributed_device(args)
    args.progress = args.rank == 0 and sys.stderr.isatty()
    try:
        yield
    finally:
        if together and dist.is_initialized():
            dist.destroy_process_group()


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--model, --pretrained, --fusion, --device, --precision, --workers."""
    parser.add_argument(
        "--model",
        required=True,
        help="a fused directory, a stage directory, an open_clip name (with --pretrained), or several of these by "
        "comma, fused on the fly",
    )
    parser.add_argument("--pretrained", help="weights of an open_clip name: a tag or a file")
    parser.add_argument("--fusion", default="concat", choices=("concat", "mean-cosine"), help="of several models")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "amp", "amp_bf16", "bf16", "fp16"))
    parser.add_argument(
        "--workers",
        type=positive,
        default=THREADS,
        help=f"threads that read and decode images, a batch ahead of the model (default {THREADS})",
    )


def add_pass_arguments(parser: argparse.ArgumentParser) -> None:
    """--batch-size, --limit."""
    parser.add_argument("--batch-size", type=positive, default=64, help="images at once (default 64)")
    parser.add_argument(
        "--limit", type=positive, metavar="N", help="score N samples only, evenly spread over the set; recorded"
    )


def add_column_arguments(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """--revision, --image-column, --label-column of a classification set; `several` label columns by comma."""
    parser.add_argument("--revision", help="branch, tag or commit of a hub data set; the commit is recorded")
    parser.add_argument("--image-column", help="of a table (default: image, or the only column of images)")
    parser.add_argument(
        "--label-column",
        help="of a table: the class or attribute (default: label, or the only column of class labels)"
        + ("; several by comma are scored on one embedding of the images" if several else ""),
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """--output, --markdown."""
    parser.add_argument("--output", help="write the scores as JSON, a list with an object a row of the model")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")


def check_outputs(args: argparse.Namespace) -> None:
    """`UserError` where a flag of any task names a place that cannot be written, told before a model is loaded."""
    if not is_first_process():  # the first rank writes, perhaps on a disk of its own
        return
    for name in ("output", "csv", "html"):
        if place := getattr(args, name, None):
            check_place(f"--{name}", place)
    if place := getattr(args, "clip_benchmark_dir", None):
        check_place("--clip-benchmark-dir", place, directory=True)
    if not getattr(args, "no_cache", True) and not args.cache_dir.is_dir():  # what is in one may be all that is needed
        check_place("--cache-dir", args.cache_dir, directory=True)


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def load_scored_model(args: argparse.Namespace) -> ScoredModel:
    """Load what the flags of `add_model_arguments` name; `UserError` when it cannot be had."""
    try:
        model, preprocess, tokenizer = mcl_clip.load(
            args.model, device=args.device, precision=args.precision, pretrained=args.pretrained, fusion=args.fusion
        )
        name = counted(args.model, args.pretrained)
    except UserError as error:
        raise UserError(f"--model {args.model}: {error}") from None
    return ScoredModel(model, preprocess, tokenizer, name, args.pretrained or "", args.precision, args.workers)


def tell(notes: Sequence[str]) -> None:
    """Say what a person is to know of the data, on stderr, once and from the first rank."""
    for note in dict.fromkeys(notes if is_first_process() else ()):
        print(f"note: {note}", file=sys.stderr)


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], args: argparse.Namespace) -> None:
    """Print the columns of the scores and write them, as the flags of `add_output_arguments` say."""
    print(table(rows, columns, markdown=args.markdown))
    if args.output:
        write_scores(args.output, rows)
