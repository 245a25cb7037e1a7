"""mcl-sugarcrepe: SugarCrepe (Hsieh et al., arXiv 2306.14610), for every stage and the fused model."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from eval.classification_data import decode
from eval.intervals import wilson
from eval.models import ScoredModel, add_model_arguments, load_scored_model
from eval.pairs import score_pairs
from eval.rows import embed_texts, row_embedding, rows_of, stage_embeddings
from eval.scores import result, table, write_scores
from mcl_clip.errors import UserError, exit_on_user_error

TASK = "sugarcrepe"
REPOSITORY = "HuggingFaceM4/SugarCrepe_{}"
CATEGORIES = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
COLUMNS = ("image", "tested_labels", "true_label")


def open_category(category: str, directory: str | Path | None = None) -> Any:
    """One category as a `datasets` table with the columns of the published set; images stay encoded.

    `directory` holds a folder a category, parquet files or saved to disk; without it the hub is asked.
    Raises `UserError` when it cannot be had or has other columns.
    """
    import datasets

    place = REPOSITORY.format(category) if directory is None else str(Path(directory) / category)
    try:
        if directory is None:
            data = datasets.load_dataset(place, split="test")
        elif (Path(place) / "state.json").is_file():
            data = datasets.load_from_disk(place)
        else:
            files = [str(file) for file in sorted(Path(place).rglob("*.parquet"))]
            if not files:
                raise FileNotFoundError(f"{place} holds no parquet files")
            data = datasets.load_dataset("parquet", data_files=files, split="train")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"SugarCrepe's {category} cannot be loaded ({reason}); check the network, or fetch "
            f"{REPOSITORY.format(category)} elsewhere and name the folder above it with --data"
        ) from None
    if missing := [column for column in COLUMNS if column not in data.column_names]:
        raise UserError(f"{place} has no column {missing[0]} but {', '.join(data.column_names)}")
    if not len(data):
        raise UserError(f"{place} holds no samples")
    return data.cast_column("image", datasets.Image(decode=False))


def evaluate(
    scored: ScoredModel,
    tables: dict[str, Any],
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Score every row of the model on `tables` (category -> table of `open_category`).

    As in the official script a sample is right when the image is strictly closer to its caption than to the
    hard negative. Metrics, as fractions: accuracy/{category}; accuracy/replace, /swap and /add, means of
    their categories; accuracy, the mean of the categories; chance, n_samples. `intervals` holds Wilson's of
    every category.
    """
    right: dict[str, dict[str, np.ndarray]] = {}
    for category, data in tables.items():
        for row, hits in _score(scored, data, category, batch_size, progress).items():
            right.setdefault(row, {})[category] = hits
    record = scored.record()
    return [
        result(
            scored,
            row,
            dataset="sugarcrepe",
            task=TASK,
            metrics=_metrics(hits),
            record=record
            | {
                "data_revision": {category: data._fingerprint for category, data in tables.items()},
                "intervals": {
                    f"accuracy/{category}": wilson(float(each.mean()), len(each)) for category, each in hits.items()
                },
            },
        )
        for row, hits in right.items()
    ]


@torch.inference_mode()
def _score(scored: ScoredModel, data: Any, category: str, batch_size: int, progress: bool) -> dict[str, np.ndarray]:
    images, captions = [], []
    for start in tqdm(range(0, len(data), batch_size), category, disable=not progress):
        batch = data[start : start + batch_size]
        pixels = []
        for offset, stored in enumerate(batch["image"]):
            where = f"image {start + offset} of SugarCrepe's {category}"
            pixels.append(scored.preprocess(decode(_stored_bytes(stored, where), where)))
        for offset, (tested, true) in enumerate(zip(batch["tested_labels"], batch["true_label"], strict=True)):
            captions += _captions(data, tested, true, f"sample {start + offset} of SugarCrepe's {category}")
        with scored.autocast():
            images.append(stage_embeddings(scored.model, image=torch.stack(pixels).to(scored.device)))
    with scored.autocast():
        texts = embed_texts(scored.model, scored.tokenizer, captions, scored.device)
    stages = [torch.cat(stage) for stage in zip(*images, strict=True)]
    hits = {}
    for row in rows_of(scored.model):
        one_image = row_embedding(scored.model, row, stages).repeat_interleave(2, dim=0)
        similarity = score_pairs(one_image, row_embedding(scored.model, row, texts)).text_image[:, :, 0]
        if not np.isfinite(similarity).all():
            raise UserError(f"{row.name} gives similarities that are not finite; did its training diverge?")
        hits[row.name] = similarity[:, 0] > similarity[:, 1]
    return hits


def _stored_bytes(stored: dict[str, Any] | None, where: str) -> bytes:
    if stored is None or stored.get("bytes") is None:
        raise UserError(f"{where} is not stored in the table")
    return stored["bytes"]


def _captions(data: Any, tested: Sequence[str], true: Any, where: str) -> list[str]:
    """(caption, hard negative), told apart by `true_label`, whose type is a class label or text."""
    feature = data.features["true_label"]
    caption = feature.int2str(true) if hasattr(feature, "int2str") else true
    negatives = [text for text in tested if text != caption]
    if len(tested) != 2 or len(negatives) != 1:
        raise UserError(f"{where}: tested_labels must hold true_label and one other caption")
    return [caption, negatives[0]]


def _metrics(hits: dict[str, np.ndarray]) -> dict[str, Any]:
    accuracy = {category: float(each.mean()) for category, each in hits.items()}
    kinds: dict[str, list[float]] = {}
    for category, value in accuracy.items():
        kinds.setdefault(category.partition("_")[0], []).append(value)
    return {
        "accuracy": float(np.mean(list(accuracy.values()))),
        **{f"accuracy/{kind}": float(np.mean(values)) for kind, values in kinds.items()},
        **{f"accuracy/{category}": value for category, value in accuracy.items()},
        "chance": 0.5,
        "n_samples": sum(len(each) for each in hits.values()),
    }


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-sugarcrepe",
        description="SugarCrepe: is an image closer to its caption than to a hard negative? Every stage, "
        "every cumulative fusion and the fused model are scored in one pass. Chance is 50 %.",
        epilog="example: mcl-sugarcrepe --model runs/NAME/fused --output scores.json",
    )
    add_model_arguments(parser)
    parser.add_argument("--data", help="folder with a folder a category; by default the hub's SugarCrepe")
    parser.add_argument("--categories", nargs="+", choices=CATEGORIES, default=CATEGORIES)
    parser.add_argument("--output", help="write the scores as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise UserError("--batch-size must be at least 1")
    tables = {category: open_category(category, args.data) for category in dict.fromkeys(args.categories)}
    rows = evaluate(load_scored_model(args), tables, batch_size=args.batch_size, progress=sys.stderr.isatty())
    columns = ["accuracy", *(f"accuracy/{category}" for category in tables)]
    print(table(rows, columns, markdown=args.markdown))
    if args.output:
        write_scores(args.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
