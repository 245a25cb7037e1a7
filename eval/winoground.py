"""mcl-winoground: Winoground's text, image and group scores, on Winoground or NaturalBench-Retrieval."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from eval.embedding import embed_images, embed_texts
from eval.images import content_hash
from eval.intervals import wilson
from eval.models import ScoredModel, add_model_arguments, load_scored_model
from eval.pairs import PairScores, score_pairs
from eval.rows import row_embedding, rows_of
from eval.scores import add_output_arguments, result, table, write_scores
from eval.winoground_data import BENCHMARKS, Example, open_examples
from mcl_clip.errors import exit_on_user_error

CHANCE = {"text_score": 1 / 4, "image_score": 1 / 4, "group_score": 1 / 6}


@torch.inference_mode()
def evaluate(
    scored: ScoredModel,
    examples: Sequence[Example],
    *,
    benchmark: str = "winoground",
    batch_size: int = 64,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score every row of the model on `examples` (see `open_examples`), in one pass over the images.

    Metrics, as fractions: text_score (each image is strictly closer to its own caption), image_score (each caption is
    strictly closer to its own image), group_score (both), the same by tag where there are tags (group_score/Object),
    chance, n_examples. `intervals` holds the 95 % interval of each (Wilson).
    """
    samples = [sample for example in examples for sample in example.images]
    texts = embed_texts(scored, [caption for example in examples for caption in example.captions])
    parts, digests = [], list[bytes]()
    for embeddings, batch in embed_images(scored, samples, len(samples), batch_size=batch_size, progress=progress):
        parts.append(embeddings)
        digests += batch.digests
    stages = [torch.cat(stage) for stage in zip(*parts, strict=True)]
    record = scored.record() | {"data_revision": content_hash(digests)}
    tags = [example.tag for example in examples]
    results = []
    for row in rows_of(scored.model):
        images, captions = (row_embedding(scored.model, row, each) for each in (stages, texts))
        metrics, intervals = _metrics(matches(score_pairs(images, captions)), tags)
        results.append(
            result(
                scored, row.name, dataset=benchmark, task=benchmark, metrics=metrics, intervals=intervals, record=record
            )
        )
    return results


def matches(scores: PairScores) -> dict[str, np.ndarray]:
    """bool [n] of each score: Thrush et al., arXiv 2204.03162, equations 1 to 3; a tie is wrong."""
    own = scores.text_image[:, [0, 1], [0, 1]]
    other_text = scores.text_image[:, [1, 0], [0, 1]]
    other_image = scores.text_image[:, [0, 1], [1, 0]]
    text, image = ((hits := own > other)[:, 0] & hits[:, 1] for other in (other_text, other_image))
    return {"text_score": text, "image_score": image, "group_score": text & image}


def _metrics(hits: dict[str, np.ndarray], tags: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    metrics: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    labels = np.array(tags)
    groups = {"": np.ones(len(labels), bool)} | {f"/{tag}": labels == tag for tag in dict.fromkeys(tags) if tag}
    for suffix, members in groups.items():
        for name, each in hits.items():
            share = float(each[members].mean())
            metrics[name + suffix], intervals[name + suffix] = share, wilson(share, int(members.sum()))
    return metrics | {"chance": CHANCE, "n_examples": len(tags)}, intervals


@exit_on_user_error
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
    print(table(rows, ["group_score", "text_score", "image_score"], markdown=args.markdown))
    if args.output:
        write_scores(args.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
