"""Scores files: a list of results in CLIP_benchmark's shape, one a model row."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.models import ScoredModel
from eval.rows import fusion_of
from mcl_clip.artifacts import atomic_path, read_json, write_json
from mcl_clip.errors import UserError

SUITE = "suite.yaml"  # beside the scores files of mcl-eval


def result(
    scored: ScoredModel,
    row: str,
    *,
    dataset: str,
    task: str,
    metrics: dict[str, Any],
    intervals: dict[str, Any],
    record: dict[str, Any],
) -> dict[str, Any]:
    """One result; `model` is the row (stage_0, ..., fused), `source` the model that was named.

    `intervals` holds [low, high] of metrics under the same names.
    """
    return {
        "dataset": dataset,
        "model": row,
        "pretrained": scored.pretrained,
        "source": scored.name,
        "task": task,
        "language": "en",
        "metrics": metrics,
        "intervals": intervals,
        **fusion_of(scored.model, row),
        **record,
    }


def write_scores(path: str | Path, results: Sequence[dict[str, Any]]) -> None:
    """Write all results or none."""
    write_json(path, list(results))


def read_scores(path: str | Path) -> list[dict[str, Any]]:
    """Results of a scores file; `UserError` when it is something else."""
    results = read_json(path, "give a file that a scorer wrote")
    needed = {"model", "task", "dataset", "metrics", "intervals"}
    if not isinstance(results, list) or not all(isinstance(each, dict) and needed <= set(each) for each in results):
        raise UserError(f"{path} is no scores file of this version; delete it and score the model again")
    return results


def write_clip_benchmark(directory: str | Path, results: Sequence[dict[str, Any]]) -> None:
    """One file a row, as `clip_benchmark build` reads them; `pretrained` names the source when there is no tag.

    The weights' hash, the fusion and the limit in a file's name keep several models and passes apart.
    """
    directory = Path(directory)
    for each in results:
        flat = each | {"pretrained": each["pretrained"] or each["source"]}
        parts = [each["dataset"], each["model"], each["model_hash"][:8], each.get("fusion")]
        parts += ["-".join(f"{weight:.4g}" for weight in each.get("weights", ())), each["task"]]
        parts += [f"limit{each['limit']}" if "limit" in each else ""]
        name = "_".join(filter(None, parts)).replace("/", "_").replace(" ", "_") + ".json"
        with atomic_path(directory / name) as temporary:
            temporary.write_text(json.dumps(flat))


def table(results: Sequence[dict[str, Any]], metrics: Sequence[str], markdown: bool = False) -> str:
    """A table in percent, a line a row, for the terminal or as markdown; the first metric with its interval.

    Of METRIC/OF the header says OF, where that names one column only.
    """
    first, others = metrics[0], list(metrics[1:])
    short = [name.rpartition("/")[2] for name in others]
    header = ["model", first, "95 % interval", *(short if len(set(short)) == len(short) else others)]
    lines = [
        [
            each["model"],
            percent(each["metrics"].get(first)),
            interval(each["intervals"].get(first)),
            *(percent(each["metrics"].get(name)) for name in others),
        ]
        for each in results
    ]
    return lay_out(header, lines, markdown)


def lay_out(header: Sequence[str], lines: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """Cells in columns, the first to the left, for the terminal or as markdown."""
    if markdown:
        rows = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    rows = [header, *lines]
    widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def percent(value: float | None) -> str:
    """A fraction in percent with one decimal; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def interval(ends: Sequence[float] | None) -> str:
    """An interval in percent; a dash for none."""
    return "-" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
