"""mcl-mmvp: the MMVP-VLM benchmark, for every stage and the fused model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.embedding import embed_images, embed_texts
from eval.images import content_hash, file_sample
from eval.intervals import bootstrap_mean, bootstrap_mean_of_groups
from eval.mmvp_data import REVISION, Pair, download, read_pairs
from eval.mmvp_pairs import write_csv, write_html
from eval.models import ScoredModel, add_model_arguments, load_scored_model
from eval.pairs import PairScores, mean_of_groups, score_pairs
from eval.rows import row_embedding, rows_of
from eval.scores import add_output_arguments, result, table, write_scores
from mcl_clip.errors import exit_on_user_error

TASK = "mmvp_vlm"
PROMPT = "a photo of "
CHANCE = 0.25


def evaluate(
    scored: ScoredModel,
    pairs: Sequence[Pair],
    *,
    dataset: str = "mmvp_vlm",
    revision: str = "",
    prompt: str = PROMPT,
    batch_size: int = 64,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score every row of the model on `pairs` (see `read_pairs`), in one pass over the images.

    A pair counts when both texts, each with the prompt before it, pick their own image. Metrics, as fractions:
    pair_accuracy (mean of the Types), pair_accuracy/{Type}, text_accuracy, same_image_rate, image_similarity and
    text_similarity inside pairs, chance, n_pairs; after the first row also gain and gain/{Type} over it (see `gains`).
    `intervals` holds the 95 % bootstrap interval of each. `revision` names the published data, else they are named
    by their content.
    """
    scores, content = score_rows(scored, pairs, prompt=prompt, batch_size=batch_size, progress=progress)
    return results(scored, pairs, scores, dataset=dataset, revision=revision or content, prompt=prompt)


def results(
    scored: ScoredModel,
    pairs: Sequence[Pair],
    scores: dict[str, PairScores],
    *,
    dataset: str = "mmvp_vlm",
    revision: str,
    prompt: str = PROMPT,
) -> list[dict[str, Any]]:
    """The scores file's rows from the similarities."""
    record = scored.record() | {"data_revision": revision, "prompt": prompt}
    base = next(iter(scores.values()))
    made = []
    for name, each in scores.items():
        metrics, intervals = pair_metrics(each, pairs)
        if each is not base:
            gained, ends = gains(each, base, pairs)
            metrics, intervals = metrics | gained, intervals | ends
        made.append(
            result(scored, name, dataset=dataset, task=TASK, metrics=metrics, intervals=intervals, record=record)
        )
    return made


@torch.inference_mode()
def score_rows(
    scored: ScoredModel,
    pairs: Sequence[Pair],
    *,
    prompt: str = PROMPT,
    batch_size: int = 64,
    progress: bool = False,
) -> tuple[dict[str, PairScores], str]:
    """Similarities of all pairs for every row of the model, and the content hash of the pairs."""
    samples = [
        file_sample(path, f"{pair.type}/{statement}")
        for pair in pairs
        for path, statement in zip(pair.images, pair.statements, strict=True)
    ]
    texts = embed_texts(scored, [prompt + statement for pair in pairs for statement in pair.statements])
    parts, digests = [], []
    for embeddings, batch in embed_images(scored, samples, len(samples), batch_size=batch_size, progress=progress):
        parts.append(embeddings)
        digests += batch.digests
    stages = [torch.cat(stage) for stage in zip(*parts, strict=True)]
    scores = {
        row.name: score_pairs(row_embedding(scored.model, row, stages), row_embedding(scored.model, row, texts))
        for row in rows_of(scored.model)
    }
    return scores, content_hash(digests)


def pair_metrics(scores: PairScores, pairs: Sequence[Pair]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, intervals) of `evaluate` from the similarities, gains aside."""
    types = [pair.type for pair in pairs]
    hits = scores.pair_correct
    by_type = mean_of_groups(hits, types)
    simple = {
        "text_accuracy": scores.correct.mean(1),
        "same_image_rate": scores.same_image,
        "image_similarity": scores.images,
        "text_similarity": scores.texts,
    }
    metrics = {
        "pair_accuracy": float(np.mean(list(by_type.values()))),
        **{name: float(values.mean()) for name, values in simple.items()},
        "chance": CHANCE,
        "n_pairs": len(pairs),
        **{f"pair_accuracy/{name}": value for name, value in by_type.items()},
    }
    intervals = {
        "pair_accuracy": bootstrap_mean_of_groups(hits, types),
        **{name: bootstrap_mean(values) for name, values in simple.items()},
        **{f"pair_accuracy/{name}": bootstrap_mean(hits[_members(types, name)]) for name in by_type},
    }
    return metrics, intervals


def gains(
    scores: PairScores, base: PairScores, pairs: Sequence[Pair]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """(metrics, intervals): gain (mean of the Types) and gain/{Type}, pair accuracy above stage 0's on the same pairs.

    The bootstrap is paired: what is redrawn is each pair's difference.
    """
    types = [pair.type for pair in pairs]
    difference = scores.pair_correct - base.pair_correct
    by_type = mean_of_groups(difference, types)
    metrics = {"gain": float(np.mean(list(by_type.values())))}
    intervals = {"gain": bootstrap_mean_of_groups(difference, types)}
    for name, value in by_type.items():
        metrics[f"gain/{name}"] = value
        intervals[f"gain/{name}"] = bootstrap_mean(difference[_members(types, name)])
    return metrics, intervals


def _members(types: Sequence[str], name: str) -> np.ndarray:
    return np.array([each == name for each in types])


@exit_on_user_error
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
    print(table(rows, columns, markdown=args.markdown))
    if args.csv:
        write_csv(args.csv, pairs, scores)
    if args.html:
        write_html(args.html, pairs, scores, name=args.model)
    if args.output:
        write_scores(args.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
