"""Scores files: a list of results in CLIP_benchmark's shape, one a model row."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.models import ScoredModel
from mcl_clip.artifacts import atomic_path, read_json, write_json


def result(
    scored: ScoredModel, row: str, *, dataset: str, task: str, metrics: dict[str, Any], record: dict[str, Any]
) -> dict[str, Any]:
    """One result; `model` is the row (stage_0, ..., fused), `source` the model that was named."""
    return {
        "dataset": dataset,
        "model": row,
        "pretrained": scored.pretrained,
        "source": scored.name,
        "task": task,
        "language": "en",
        "metrics": metrics,
        **record,
    }


def write_scores(path: str | Path, results: Sequence[dict[str, Any]]) -> None:
    """Write all results or none."""
    write_json(path, list(results))


def read_scores(path: str | Path) -> list[dict[str, Any]]:
    """Results of a scores file."""
    return read_json(path)


def write_clip_benchmark(directory: str | Path, results: Sequence[dict[str, Any]]) -> None:
    """One file a row, as `clip_benchmark build` reads them; `pretrained` names the source when there is no tag."""
    directory = Path(directory)
    for each in results:
        flat = each | {"pretrained": each["pretrained"] or each["source"]}
        name = f"{each['dataset']}_{each['model']}_{each['task']}.json".replace("/", "_").replace(" ", "_")
        with atomic_path(directory / name) as temporary:
            temporary.write_text(json.dumps(flat))


def table(results: Sequence[dict[str, Any]], metrics: Sequence[str], markdown: bool = False) -> str:
    """A table in percent, a line a row, for the terminal or as markdown."""
    header = ["model", *(name.removeprefix("pair_accuracy/") for name in metrics)]
    lines = [[each["model"], *(_percent(each["metrics"].get(name)) for name in metrics)] for each in results]
    if markdown:
        rows = [header, ["---", *["---:"] * len(metrics)], *lines]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    widths = [max(len(row[column]) for row in [header, *lines]) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in [header, *lines]
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
