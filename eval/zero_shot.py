"""mcl-zero-shot: zero-shot classification of every stage and the fused model, in one pass over the images."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from open_clip_train.distributed import init_distributed_device
from torch import Tensor
from tqdm import tqdm

from eval.classification_data import ClassificationSet, open_set, prompts
from eval.intervals import wilson
from eval.models import ScoredModel, add_model_arguments, load_scored_model
from eval.rows import Row, embed_texts, require_finite, row_embedding, rows_of, stage_embeddings
from eval.scores import result, table, write_clip_benchmark, write_scores
from mcl_clip.errors import UserError, exit_on_user_error

TASK = "zeroshot_classification"


def evaluate(
    scored: ScoredModel,
    data: ClassificationSet,
    *,
    batch_size: int = 64,
    confusion: bool = False,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score every row of the model on `data` (see `open_set`).

    Metrics, as fractions: acc1 with its 95 % interval (Wilson), acc5 (null below five classes), mean_per_class_recall,
    per_class_recall (in the order of the classes), n_images, and with `confusion` the counts [true class][predicted class]. With several ranks (a
    process group is up) every rank scores its share of the images and returns the whole result.
    """
    rows = rows_of(scored.model)
    counts = count_predictions(scored, data, rows, batch_size, rank, world_size, progress)
    record = scored.record() | {"data_revision": data.revision}
    return [
        result(scored, row.name, dataset=data.name, task=TASK, metrics=metrics(each, data, confusion), record=record)
        for row, each in zip(rows, counts, strict=True)
    ]


@torch.inference_mode()
def classifier(scored: ScoredModel, row: Row, texts: Sequence[Tensor], num_classes: int) -> Tensor:
    """Class weights [D, classes]: the normalised mean of the prompts' unit embeddings, as open_clip's builder."""
    embedding = row_embedding(scored.model, row, texts)
    return F.normalize(embedding.reshape(num_classes, -1, embedding.shape[-1]).mean(1), dim=-1).T


@torch.inference_mode()
def count_predictions(
    scored: ScoredModel,
    data: ClassificationSet,
    rows: Sequence[Row],
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
) -> list[tuple[np.ndarray, int]]:
    """Per row (confusion counts int64 [classes, classes], images whose class is among the best five)."""
    num_classes = len(data.classnames)
    with scored.autocast():
        texts = embed_texts(scored.model, scored.tokenizer, prompts(data.classnames, data.templates), scored.device)
    weights = [classifier(scored, row, texts, num_classes) for row in rows]
    confusion = torch.zeros(len(rows), num_classes, num_classes, dtype=torch.int64)
    top5 = torch.zeros(len(rows), dtype=torch.int64)
    mine = data.samples(rank, world_size)
    batches = -(-len(range(rank, data.size, world_size)) // batch_size)
    for images, labels in tqdm(_batches(scored, mine, batch_size), "images", batches, disable=not progress):
        with scored.autocast():
            stages = stage_embeddings(scored.model, image=images.to(scored.device))
        for embeddings in stages:
            require_finite(embeddings, "images")
        if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
            raise UserError(
                f"{data.name} has an image of class {int(labels.max())}, but only {num_classes} class names"
            )
        for index, (row, weight) in enumerate(zip(rows, weights, strict=True)):
            logits = (row_embedding(scored.model, row, stages) @ weight).cpu()
            best = logits.topk(min(5, num_classes)).indices
            pairs = labels * num_classes + best[:, 0]
            confusion[index] += torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
            top5[index] += (best == labels[:, None]).any(1).sum()
    if world_size > 1:
        for counts in (confusion, top5):
            on_device = counts.to(scored.device)
            dist.all_reduce(on_device)
            counts.copy_(on_device)
    return [(confusion[index].numpy(), int(top5[index])) for index in range(len(rows))]


def metrics(counts: tuple[np.ndarray, int], data: ClassificationSet, confusion: bool) -> dict[str, Any]:
    """The metrics of `evaluate` from the counts of one row; a class without images has a null recall."""
    matrix, top5 = counts
    total, right = int(matrix.sum()), int(matrix.trace())
    per_class = matrix.sum(1)
    seen = per_class > 0
    recall = np.divide(matrix.diagonal(), per_class, out=np.zeros(len(matrix)), where=seen)
    low, high = wilson(right / total, total)
    values: dict[str, Any] = {
        "acc1": right / total,
        "acc1_low": low,
        "acc1_high": high,
        "acc5": top5 / total if len(matrix) >= 5 else None,
        "mean_per_class_recall": float(recall[seen].mean()),
        "per_class_recall": [float(value) if has else None for value, has in zip(recall, seen, strict=True)],
        "n_images": total,
    }
    return values | ({"confusion_matrix": matrix.tolist()} if confusion else {})


def _batches(scored: ScoredModel, samples: Iterator, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    while chunk := list(islice(samples, batch_size)):
        images, labels = zip(*chunk, strict=True)
        yield torch.stack([scored.preprocess(image) for image in images]), torch.tensor(labels)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-zero-shot",
        description="Zero-shot classification of every stage, every cumulative fusion and the fused model. "
        "Under torchrun (torchrun -m eval.zero_shot ...) the images are shared among the ranks.",
        epilog="example: mcl-zero-shot --model runs/NAME/fused --dataset imagenet/val --output scores.json",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--dataset",
        required=True,
        help="a hub id or folder that `datasets` reads, CLIP_benchmark's WebDataset layout, or a folder per class",
    )
    parser.add_argument("--split", default="test")
    parser.add_argument("--templates", help="openai, simple, or a file with a template a line ({} or {c} is the class)")
    parser.add_argument("--classnames", help="file with a class name a line")
    parser.add_argument("--image-column", default="image")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--confusion", action="store_true", help="record the confusion matrix")
    parser.add_argument("--output", help="write the scores as JSON")
    parser.add_argument("--clip-benchmark-dir", help="also write one file a row, for `clip_benchmark build`")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise UserError("--batch-size must be at least 1")
    data = open_set(
        args.dataset,
        args.split,
        templates=args.templates,
        classnames=args.classnames,
        image_column=args.image_column,
        label_column=args.label_column,
    )
    args.dist_backend = args.dist_url = None
    args.horovod = args.no_set_device_rank = False
    init_distributed_device(args)
    scored = load_scored_model(args)
    rows = evaluate(
        scored,
        data,
        batch_size=args.batch_size,
        confusion=args.confusion,
        rank=args.rank,
        world_size=args.world_size,
        progress=args.rank == 0 and sys.stderr.isatty(),
    )
    if args.rank == 0:
        print(table(rows, ["acc1", "acc5", "mean_per_class_recall"], markdown=args.markdown))
        if args.output:
            write_scores(args.output, rows)
        if args.clip_benchmark_dir:
            write_clip_benchmark(args.clip_benchmark_dir, rows)
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
