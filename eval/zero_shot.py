"""mcl-zero-shot: zero-shot classification of every stage and the fused model, in one pass over the images."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from eval.command import add_column_arguments, add_model_arguments, add_output_arguments, load_scored_model, show, tell
from eval.data.classification import open_set
from eval.scores import write_clip_benchmark
from eval.tasks.text_classifier import default_cache
from eval.tasks.zero_shot import evaluate
from mcl_clip.errors import exit_on_user_error
from mcl_clip.openclip.distributed import init_distributed_device


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-zero-shot",
        description="Zero-shot classification of every stage, every cumulative fusion and the fused model, in one pass "
        "over the images. Under torchrun (torchrun -m eval.zero_shot ...) the images are shared among the ranks.",
        epilog="examples: mcl-zero-shot --model runs/NAME/fused --dataset imagenet --split val --output scores.json; "
        "mcl-zero-shot --model ViT-B-32 --pretrained openai --dataset uoft-cs/cifar10 --templates simple",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--dataset",
        required=True,
        help="a hub id or folder that `datasets` reads, CLIP_benchmark's WebDataset layout, or a folder per class",
    )
    parser.add_argument("--split", default="test", help="of the data set (default test)")
    parser.add_argument(
        "--templates",
        help="openai (80), simple (7), or a file with a template a line, {} or {c} for the class; by default the "
        "set's own, else openai",
    )
    parser.add_argument("--classnames", help="file with a class name a line; by default the set's own")
    add_column_arguments(parser)
    parser.add_argument("--confusion", action="store_true", help="record the confusion matrix")
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=default_cache(),
        help="keeps text classifiers by model and prompts (default $MCL_CLIP_CACHE or ~/.cache/mcl_clip)",
    )
    parser.add_argument("--no-cache", action="store_true", help="neither read nor keep text classifiers")
    parser.add_argument("--clip-benchmark-dir", help="also write one file a row, for `clip_benchmark build`")
    add_output_arguments(parser)
    args = parser.parse_args(argv)
    data = open_set(
        args.dataset,
        args.split,
        templates=args.templates,
        classnames=args.classnames,
        image_column=args.image_column,
        label_column=args.label_column,
        revision=args.revision,
    )
    init_distributed_device(args)
    if args.rank == 0:
        tell(data.notes)
    try:
        scored = load_scored_model(args)
        rows = evaluate(
            scored,
            data,
            batch_size=args.batch_size,
            confusion=args.confusion,
            cache=None if args.no_cache else args.cache_dir,
            rank=args.rank,
            world_size=args.world_size,
            progress=args.rank == 0 and sys.stderr.isatty(),
        )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if args.rank == 0:
        show(rows, ["acc1", "acc5", "mean_per_class_recall"], args)
        if args.clip_benchmark_dir:
            write_clip_benchmark(args.clip_benchmark_dir, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
