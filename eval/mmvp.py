"""mcl-mmvp: the MMVP-VLM benchmark, for every stage and the fused model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.command import add_model_arguments, add_output_arguments, load_scored_model, show
from eval.data.mmvp import REVISION, download, read_pairs
from eval.report.pair_listing import write_csv, write_html
from eval.tasks.mmvp import evaluate, results, score_rows
from mcl_clip.errors import exit_on_user_error
from mcl_clip.launch import one_process

__all__ = ["evaluate", "main"]


@exit_on_user_error
@one_process
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-mmvp",
        description="Score MMVP-VLM: of two images that differ in one visual pattern, does each text pick its own? "
        "Every stage, every cumulative fusion and the fused model are scored in one pass. Chance is 25 %.",
        epilog="example: mcl-mmvp --model runs/NAME/fused --data MMVP_VLM --output scores.json --html pairs.html",
    )
    add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="folder with Questions.csv and the images by Type")
    source.add_argument("--download", action="store_true", help=f"fetch the published set, revision {REVISION[:8]}")
    parser.add_argument("--csv", help="write every pair's similarities and choices")
    parser.add_argument("--html", help="write the pairs as pictures, right and wrong marked")
    add_output_arguments(parser)
    args = parser.parse_args(argv)
    directory = download() if args.download else Path(args.data)
    pairs = read_pairs(directory)
    scored = load_scored_model(args)
    scores, content = score_rows(scored, pairs, batch_size=args.batch_size, progress=sys.stderr.isatty())
    rows = results(scored, pairs, scores, revision=REVISION if args.download else content)
    types = list(dict.fromkeys(pair.type for pair in pairs))
    columns = ["pair_accuracy", *(f"pair_accuracy/{name}" for name in types), "text_accuracy", "same_image_rate"]
    if args.csv:
        write_csv(args.csv, pairs, scores)
    if args.html:
        write_html(args.html, pairs, scores, name=args.model)
    show(rows, columns, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
