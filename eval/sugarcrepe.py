"""mcl-sugarcrepe: SugarCrepe (Hsieh et al., arXiv 2306.14610), for every stage and the fused model."""

import argparse
import sys
from collections.abc import Sequence

from eval.command import add_model_arguments, add_output_arguments, load_scored_model, show
from eval.data.sugarcrepe import CATEGORIES, open_category, open_sugarcrepe
from eval.tasks.sugarcrepe import evaluate
from mcl_clip.errors import exit_on_user_error
from mcl_clip.launch import one_process

__all__ = ["evaluate", "main", "open_category", "open_sugarcrepe"]


@exit_on_user_error
@one_process
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-sugarcrepe",
        description="SugarCrepe: is an image closer to its caption than to a hard negative? Every stage, "
        "every cumulative fusion and the fused model are scored in one pass. Chance is 50 %.",
        epilog="example: mcl-sugarcrepe --model runs/NAME/fused --output scores.json",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--data", help="folder with NAME.json as the authors publish it, or a folder a category; by default the hub's"
    )
    parser.add_argument("--images", help="of the authors' JSON: COCO's val2017 (default: val2017 in --data)")
    parser.add_argument("--categories", nargs="+", choices=CATEGORIES, default=CATEGORIES)
    add_output_arguments(parser)
    args = parser.parse_args(argv)
    categories = [open_category(name, args.data, args.images) for name in dict.fromkeys(args.categories)]
    rows = evaluate(load_scored_model(args), categories, batch_size=args.batch_size, progress=sys.stderr.isatty())
    show(rows, ["accuracy", *(f"accuracy/{category.name}" for category in categories)], args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
