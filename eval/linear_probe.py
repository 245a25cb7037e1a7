"""mcl-linear-probe: what a linear classifier reads from the image embeddings of every stage and fusion."""

import argparse
import sys
from collections.abc import Sequence

from eval.command import add_column_arguments, add_model_arguments, add_output_arguments, load_scored_model, show, tell
from eval.data.classification import open_set
from eval.tasks.linear_probe import evaluate
from mcl_clip.errors import UserError, exit_on_user_error
from mcl_clip.launch import one_process


@exit_on_user_error
@one_process
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-linear-probe",
        description="Logistic regression (L-BFGS) on the image embeddings of every stage, every "
        "cumulative fusion and the fused model.",
        epilog="example: mcl-linear-probe --model runs/NAME/fused --dataset FOLDER --label-column color",
    )
    add_model_arguments(parser)
    parser.add_argument("--dataset", required=True, help="as for mcl-zero-shot; it needs a split to fit on")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--split", default="test")
    add_column_arguments(parser)
    parser.add_argument("--seed", type=int, default=0)
    add_output_arguments(parser)
    args = parser.parse_args(argv)
    if args.seed < 0:
        raise UserError("--seed must not be negative")
    train, test = (
        open_set(
            args.dataset,
            split,
            templates="simple",
            image_column=args.image_column,
            label_column=args.label_column,
            revision=args.revision,
        )
        for split in (args.train_split, args.split)
    )
    tell((*train.notes, *test.notes))
    scored = load_scored_model(args)
    rows = evaluate(scored, train, test, seed=args.seed, batch_size=args.batch_size, progress=sys.stderr.isatty())
    show(rows, ["lp_acc1", "lp_mean_per_class_recall"], args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
