"""mcl-winoground: Winoground's text, image and group scores, on Winoground or NaturalBench-Retrieval."""

import argparse
import sys
from collections.abc import Sequence

from eval.command import add_model_arguments, add_output_arguments, load_scored_model, show
from eval.data.winoground import BENCHMARKS, open_examples
from eval.tasks.winoground import evaluate
from mcl_clip.errors import exit_on_user_error
from mcl_clip.launch import one_process


@exit_on_user_error
@one_process
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-winoground",
        description="Two images and two captions: does each find its own? Text, image and group score of every stage, "
        "every cumulative fusion and the fused model. Chance is 25, 25 and 16.7 %. Winoground is gated: accept its "
        "terms on the hub first.",
        epilog="example: mcl-winoground --model runs/NAME/fused --benchmark naturalbench_retrieval",
    )
    add_model_arguments(parser)
    parser.add_argument("--benchmark", choices=tuple(BENCHMARKS), default="winoground")
    parser.add_argument("--data", help="folder with the benchmark as published, or as a table; by default the hub's")
    add_output_arguments(parser)
    args = parser.parse_args(argv)
    examples = open_examples(args.benchmark, args.data)
    rows = evaluate(
        load_scored_model(args),
        examples,
        benchmark=args.benchmark,
        batch_size=args.batch_size,
        progress=sys.stderr.isatty(),
    )
    show(rows, ["group_score", "text_score", "image_score"], args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
