"""mcl-sugarcrepe: SugarCrepe (Hsieh et al., arXiv 2306.14610), for every stage and the fused model."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.embedding import embed_images, embed_texts
from eval.images import Sample, content_hash
from eval.intervals import mean_of_shares, wilson
from eval.models import ScoredModel, add_model_arguments, load_scored_model
from eval.pairs import score_pairs
from eval.rows import row_embedding, rows_of
from eval.scores import add_output_arguments, result, table, write_scores
from eval.tables import open_table, read_image, undecoded
from mcl_clip.errors import UserError, exit_on_user_error

TASK = "sugarcrepe"
REPOSITORY = "HuggingFaceM4/SugarCrepe_{}"
CATEGORIES = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
COLUMNS = ("image", "tested_labels", "true_label")


@dataclass(frozen=True)
class Category:
    """One category: a table of the published columns with encoded images, and its commit on the hub, if any."""

    name: str
    table: Any
    revision: str = ""

    def samples(self) -> Iterator[Sample]:
        """The images."""
        for row in range(len(self.table)):
            where = f"image {row} of SugarCrepe's {self.name}"
            yield Sample(partial(read_image, self.table, row, "image"), where, "\n".join(self.captions(row)))

    def captions(self, row: int) -> tuple[str, str]:
        """(caption, hard negative) of a row, told apart by `true_label`, whose type is a class label or text."""
        tested, true = self.table["tested_labels"][row], self.table["true_label"][row]
        feature = self.table.features["true_label"]
        caption = feature.int2str(true) if hasattr(feature, "int2str") else true
        negatives = [text for text in tested if text != caption]
        if len(tested) != 2 or len(negatives) != 1:
            raise UserError(
                f"sample {row} of SugarCrepe's {self.name}: tested_labels must hold true_label and one other caption"
            )
        return caption, negatives[0]


def open_category(name: str, directory: str | Path | None = None) -> Category:
    """One category of the published set.

    `directory` holds a folder a category (add_att or SugarCrepe_add_att), of parquet or saved to disk; without it the
    hub is asked. Raises `UserError` when it cannot be had or has other columns.
    """
    place = REPOSITORY.format(name)
    if directory is not None:
        folders = [Path(directory) / folder for folder in (name, place.rpartition("/")[2])]
        found = next((folder for folder in folders if folder.is_dir()), None)
        if found is None:
            raise UserError(f"--data {directory} has no folder {name}; fetch {place} from the hub into it")
        place = str(found)
    table, commit = open_table(place, "test", flag="SugarCrepe's")
    if missing := [column for column in COLUMNS if column not in table.column_names]:
        raise UserError(f"{place} has no column {missing[0]} but {', '.join(table.column_names)}")
    if not len(table):
        raise UserError(f"{place} holds no samples")
    return Category(name, undecoded(table, "image", place), commit)


def open_sugarcrepe(directory: str | Path | None = None) -> list[Category]:
    """All categories."""
    return [open_category(name, directory) for name in CATEGORIES]


def evaluate(
    scored: ScoredModel, categories: Sequence[Category], *, batch_size: int = 64, progress: bool = False
) -> list[dict[str, Any]]:
    """Score every row of the model on `categories` (see `open_sugarcrepe`).

    As in the official script a sample is right when the image is strictly closer to its caption than to the
    hard negative. Metrics, as fractions: accuracy/{category}; accuracy/replace, /swap and /add, means of
    their categories; accuracy, the mean of the categories; chance, n_samples. `intervals` holds the 95 % interval
    of each.
    """
    right: dict[str, dict[str, np.ndarray]] = {row.name: {} for row in rows_of(scored.model)}
    revisions = {}
    for category in categories:
        hits, content = _score(scored, category, batch_size, progress)
        revisions[category.name] = category.revision or content
        for row, each in hits.items():
            right[row][category.name] = each
    record = scored.record() | {"data_revision": revisions}
    results = []
    for row, by_category in right.items():
        metrics, intervals = _metrics(by_category)
        results.append(
            result(scored, row, dataset="sugarcrepe", task=TASK, metrics=metrics, intervals=intervals, record=record)
        )
    return results


@torch.inference_mode()
def _score(
    scored: ScoredModel, category: Category, batch_size: int, progress: bool
) -> tuple[dict[str, np.ndarray], str]:
    """(right or wrong by row and sample, content hash)."""
    count = len(category.table)
    texts = embed_texts(scored, [text for row in range(count) for text in category.captions(row)])
    images, digests = [], []
    for stages, batch in embed_images(
        scored, category.samples(), count, batch_size=batch_size, progress=progress, what=category.name
    ):
        images.append(stages)
        digests += batch.digests
    stages = [torch.cat(stage) for stage in zip(*images, strict=True)]
    hits = {}
    for row in rows_of(scored.model):
        one_image = row_embedding(scored.model, row, stages).repeat_interleave(2, dim=0)
        similarity = score_pairs(one_image, row_embedding(scored.model, row, texts)).text_image[:, :, 0]
        hits[row.name] = similarity[:, 0] > similarity[:, 1]
    return hits, content_hash(digests)


def _metrics(hits: dict[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(metrics, intervals) from right or wrong by category."""
    groups = {"accuracy": list(hits)}
    for category in hits:
        groups.setdefault(f"accuracy/{category.partition('_')[0]}", []).append(category)
    metrics: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for name, members in groups.items():
        shares, counts = [float(hits[each].mean()) for each in members], [len(hits[each]) for each in members]
        metrics[name], intervals[name] = float(np.mean(shares)), mean_of_shares(shares, counts)
    for category, each in hits.items():
        metrics[f"accuracy/{category}"] = float(each.mean())
        intervals[f"accuracy/{category}"] = wilson(float(each.mean()), len(each))
    return metrics | {"chance": 0.5, "n_samples": sum(map(len, hits.values()))}, intervals


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
    add_output_arguments(parser)
    args = parser.parse_args(argv)
    categories = [open_category(name, args.data) for name in dict.fromkeys(args.categories)]
    rows = evaluate(load_scored_model(args), categories, batch_size=args.batch_size, progress=sys.stderr.isatty())
    columns = ["accuracy", *(f"accuracy/{category.name}" for category in categories)]
    print(table(rows, columns, markdown=args.markdown))
    if args.output:
        write_scores(args.output, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
