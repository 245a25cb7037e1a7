"""mcl-zero-shot: zero-shot classification of every stage and the fused model, in one pass over the images."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from open_clip_train.distributed import init_distributed_device

from eval.classification_data import open_set
from eval.classification_set import ClassificationSet
from eval.images import content_hash
from eval.intervals import mean_of_shares, wilson
from eval.models import ScoredModel, add_model_arguments, load_scored_model
from eval.predictions import predict_on_all_ranks
from eval.rows import rows_of
from eval.scores import add_output_arguments, result, table, write_clip_benchmark, write_scores
from eval.text_classifier import default_cache, text_classifier
from mcl_clip.errors import exit_on_user_error

TASK = "zeroshot_classification"


def evaluate(
    scored: ScoredModel,
    data: ClassificationSet,
    *,
    batch_size: int = 64,
    confusion: bool = False,
    cache: Path | None = None,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score every row of the model on `data` (see `open_set`).

    Metrics, as fractions: acc1, acc5 (null below five classes), mean_per_class_recall, per_class_recall (in the order
    of the classes), n_images, and with `confusion` the counts [true class][predicted class]; `intervals` holds the
    95 % interval of each. `cache` is a directory for text classifiers (see `text_classifier`). With several ranks (a
    process group is up) every rank scores its share of the images and returns the whole result.
    """
    record = scored.record()
    rows = rows_of(scored.model)
    weights = text_classifier(
        scored, rows, data.classnames, data.templates, record=record, cache=cache, progress=progress
    )
    found = predict_on_all_ranks(
        scored,
        data,
        weights,
        batch_size=batch_size,
        confusion=confusion,
        rank=rank,
        world_size=world_size,
        progress=progress,
    )
    revision = data.revision or content_hash([each.tobytes() for each in found.digests])
    record |= {"data_revision": revision, "classes": list(data.classnames), "templates": list(data.templates)}
    results = []
    for index, row in enumerate(rows):
        metrics, intervals = metrics_of(found.right[index], found.images, int(found.top5[index]))
        if confusion:
            metrics["confusion_matrix"] = found.confusion[index].tolist()
        results.append(
            result(scored, row.name, dataset=data.name, task=TASK, metrics=metrics, intervals=intervals, record=record)
        )
    return results


def metrics_of(right: np.ndarray, images: np.ndarray, top5: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, intervals) of `evaluate` from one row's counts by class; a class without images has a null recall."""
    total, hits = int(images.sum()), int(right.sum())
    seen = images > 0
    recall = [int(hit) / int(count) if count else None for hit, count in zip(right, images, strict=True)]
    shares = right[seen] / images[seen]
    has_top5 = len(images) >= 5
    metrics = {
        "acc1": hits / total,
        "acc5": top5 / total if has_top5 else None,
        "mean_per_class_recall": float(shares.mean()),
        "per_class_recall": recall,
        "n_images": total,
    }
    intervals = {
        "acc1": wilson(hits / total, total),
        "acc5": wilson(top5 / total, total) if has_top5 else None,
        "mean_per_class_recall": mean_of_shares(shares, images[seen]),
        "per_class_recall": [
            None if share is None else wilson(share, int(count)) for share, count in zip(recall, images, strict=True)
        ],
    }
    return metrics, intervals


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
    parser.add_argument("--revision", help="branch, tag or commit of a hub data set; the commit is recorded")
    parser.add_argument(
        "--templates",
        help="openai (80), simple (7), or a file with a template a line, {} or {c} for the class; by default the "
        "set's own, else openai",
    )
    parser.add_argument("--classnames", help="file with a class name a line; by default the set's own")
    parser.add_argument("--image-column", help="of a table (default: image, or the only column of images)")
    parser.add_argument("--label-column", help="of a table (default: label, or the only column of class labels)")
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
        print(table(rows, ["acc1", "acc5", "mean_per_class_recall"], markdown=args.markdown))
        if args.output:
            write_scores(args.output, rows)
        if args.clip_benchmark_dir:
            write_clip_benchmark(args.clip_benchmark_dir, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
