"""mcl-mmvp: the MMVP-VLM benchmark, for every stage and the fused model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from eval.intervals import bootstrap_mean_of_groups
from eval.mmvp_data import REVISION, Pair, download, read_pairs
from eval.models import ScoredModel, add_model_arguments, load_scored_model
from eval.pairs import PairScores, mean_of_groups, score_pairs
from eval.rows import embed_texts, require_finite, row_embedding, rows_of, stage_embeddings
from eval.scores import result, table, write_scores
from mcl_clip.errors import UserError, exit_on_user_error

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
    pair_accuracy (mean of the Types), its 95 % bootstrap interval over pairs, pair_accuracy/{Type}, text_accuracy,
    same_image_rate, image_similarity and text_similarity inside pairs, chance, n_pairs; after the first row also
    gain/{Type} over it with its paired interval (see `gains`).
    """
    scores = score_rows(scored, pairs, prompt=prompt, batch_size=batch_size, progress=progress)
    return results(scored, pairs, scores, dataset=dataset, revision=revision)


def results(
    scored: ScoredModel,
    pairs: Sequence[Pair],
    scores: dict[str, PairScores],
    *,
    dataset: str = "mmvp_vlm",
    revision: str = "",
) -> list[dict[str, Any]]:
    """The scores file's rows from the similarities."""
    record = scored.record() | {"data_revision": revision}
    base = next(iter(scores.values()))
    return [
        result(
            scored,
            name,
            dataset=dataset,
            task=TASK,
            metrics=pair_metrics(each, pairs) | ({} if each is base else gains(each, base, pairs)),
            record=record,
        )
        for name, each in scores.items()
    ]


@torch.inference_mode()
def score_rows(
    scored: ScoredModel,
    pairs: Sequence[Pair],
    *,
    prompt: str = PROMPT,
    batch_size: int = 64,
    progress: bool = False,
) -> dict[str, PairScores]:
    """Similarities of all pairs for every row of the model."""
    paths = [path for pair in pairs for path in pair.images]
    parts = []
    with scored.autocast():
        for start in tqdm(range(0, len(paths), batch_size), "images", disable=not progress):
            images = torch.stack([scored.preprocess(open_image(path)) for path in paths[start : start + batch_size]])
            parts.append(stage_embeddings(scored.model, image=images.to(scored.device)))
        statements = [prompt + statement for pair in pairs for statement in pair.statements]
        texts = embed_texts(scored.model, scored.tokenizer, statements, scored.device)
    stages = [require_finite(torch.cat(stage), "images") for stage in zip(*parts, strict=True)]
    return {
        row.name: score_pairs(row_embedding(scored.model, row, stages), row_embedding(scored.model, row, texts))
        for row in rows_of(scored.model)
    }


def pair_metrics(scores: PairScores, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The metrics of `evaluate` from the similarities."""
    types = [pair.type for pair in pairs]
    hits = scores.correct.all(1).astype(np.float64)
    by_type = mean_of_groups(hits, types)
    low, high = bootstrap_mean_of_groups(hits, types)
    return {
        "pair_accuracy": float(np.mean(list(by_type.values()))),
        "pair_accuracy_low": low,
        "pair_accuracy_high": high,
        "text_accuracy": float(scores.correct.mean()),
        "same_image_rate": float(scores.same_image.mean()),
        "image_similarity": float(scores.images.mean()),
        "text_similarity": float(scores.texts.mean()),
        "chance": CHANCE,
        "n_pairs": len(pairs),
        **{f"pair_accuracy/{name}": value for name, value in by_type.items()},
    }


def gains(scores: PairScores, base: PairScores, pairs: Sequence[Pair]) -> dict[str, float]:
    """gain/{Type}: pair accuracy above stage 0's on the same pairs; gain_low, gain_high: its 95 % paired bootstrap."""
    types = np.array([pair.type for pair in pairs])
    difference = scores.correct.all(1).astype(np.float64) - base.correct.all(1)
    found = {}
    for name in dict.fromkeys(types.tolist()):
        members = difference[types == name]
        low, high = bootstrap_mean_of_groups(members, [name] * len(members))
        found |= {f"gain/{name}": float(members.mean()), f"gain_low/{name}": low, f"gain_high/{name}": high}
    return found


def open_image(path: Path) -> Image.Image:
    """An RGB image; `UserError` when it does not open."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} does not open as an image ({error}); fetch it again") from None


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-mmvp",
        description="Score MMVP-VLM: of two images that differ in one visual pattern, does each statement pick its own? "
        "Every stage, every cumulative fusion and the fused model are scored in one pass. Chance is 25 %.",
        epilog="example: mcl-mmvp --model runs/NAME/fused --data MMVP_VLM --output scores.json --html pairs.html",
    )
    add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="folder with Questions.csv and the images by Type")
    source.add_argument("--download", action="store_true", help=f"fetch the published set, revision {REVISION[:8]}")
    parser.add_argument("--output", help="write the scores as JSON")
    parser.add_argument("--csv", help="write every pair's similarities and choices")
    parser.add_argument("--html", help="write the pairs as pictures, right and wrong marked")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args(argv)
    directory = download() if args.download else Path(args.data)
    pairs = read_pairs(directory)
    scored = load_scored_model(args)
    scores = score_rows(scored, pairs, batch_size=args.batch_size, progress=sys.stderr.isatty())
    rows = results(scored, pairs, scores, revision=REVISION if args.download else "")
    types = list(dict.fromkeys(pair.type for pair in pairs))
    columns = ["pair_accuracy", *(f"pair_accuracy/{name}" for name in types), "text_accuracy", "same_image_rate"]
    print(table(rows, columns, markdown=args.markdown))
    if args.csv:
        from eval.mmvp_pairs import write_csv

        write_csv(args.csv, pairs, scores)
    if args.html:
        from eval.mmvp_pairs import write_html

        write_html(args.html, pairs, scores)
    if args.output:
        write_scores(args.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
