"""The report's scores: of every scores file a picture and a table, ready for the templates."""

import math
from collections.abc import Sequence
from typing import Any

from eval.report import plots
from eval.report.run_facts import RunFacts
from eval.report.verdict import PAIR, types_of
from eval.scores import interval, percent


def pair_sections(pairs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of every MMVP scores file: bars by pattern, and the numbers with the mean's interval."""
    made = []
    for name, results in pairs.items():
        types = types_of(results)
        columns = {"mean": PAIR} | {name: f"{PAIR}/{name}" for name in types}
        made.append(
            {
                "title": of_several(pairs, name, "Pair accuracy by pattern"),
                "note": "Two images, two texts: a pair counts when each text picks its own image. Percent, chance is "
                "25. What stage 0 sees least stands first." + _limited(results),
                "picture": _bars(results, {name: columns[name] for name in types}, "pairs right, %", 0.25),
                "table": _table(results, columns),
            }
        )
    return made


def zero_shot_sections(facts: RunFacts) -> list[dict[str, Any]]:
    """All zero-shot sets together: a column a set; what stage 0 sees least stands first."""
    files = of_task(facts, "zeroshot_classification")
    names = sorted(files, key=lambda name: files[name][0]["metrics"]["acc1"])
    if not names:
        return []
    means, averaged = zero_shot_means(files)
    rows = dict.fromkeys(each["model"] for results in sorted(files.values(), key=len, reverse=True) for each in results)
    results = []
    for row in rows:
        found = {name: each for name in names for each in files[name] if each["model"] == row}
        metrics = {name.removeprefix("zero_shot_"): each["metrics"]["acc1"] for name, each in found.items()}
        results.append({"model": row, "metrics": {"mean": means.get(row)} | metrics, "intervals": {}})
    sets = {name.removeprefix("zero_shot_"): name.removeprefix("zero_shot_") for name in names}
    section = {
        "title": "Zero-shot accuracy",
        "note": "Top-1 accuracy in percent, a column a set."
        + (f" The mean is that of {', '.join(sorted(averaged))}." if 0 < len(averaged) < len(files) else "")
        + "".join(_limited(files[name], f"{name.removeprefix('zero_shot_')}: ") for name in names),
        "picture": _bars(results, sets, "top-1, %"),
        "table": _table(results, {"mean": "mean"} | sets),
    }
    return [section]


def zero_shot_means(files: dict[str, list[dict[str, Any]]]) -> tuple[dict[str, float], list[str]]:
    """(mean top-1 by row, names of the sets): over the sets that were scored with most rows, and the rows of all these.

    A set on which one stage was scored alone has no say: means over unlike sets would stand below each other.
    """
    most = max(map(len, files.values()), default=0)
    names = [name for name, results in files.items() if len(results) == most]
    by_set = [{each["model"]: each["metrics"]["acc1"] for each in files[name]} for name in names]
    common = set.intersection(*map(set, by_set)) if by_set else set()
    return {row: sum(each[row] for each in by_set) / len(by_set) for row in common}, names


def of_several(files: dict[str, Any], name: str, text: str) -> str:
    """The text, with the file's name before it where there are several files."""
    return f"{name}: {text}" if len(files) > 1 else text


def other_sections(facts: RunFacts) -> list[dict[str, Any]]:
    """Every other scores file: what has an interval is a score."""
    made = []
    for name, results in facts.scores.items():
        if results and results[0]["task"] not in ("mmvp_vlm", "zeroshot_classification"):
            scores = [key for key, ends in results[0]["intervals"].items() if ends and isinstance(ends[0], float)]
            table = _table(results, {key: key for key in scores})
            made.append(
                {
                    "title": name.replace("_", " "),
                    "note": f"Percent.{_limited(results)}",
                    "picture": None,
                    "table": table,
                }
            )
    return made


def of_task(facts: RunFacts, task: str) -> dict[str, list[dict[str, Any]]]:
    return {name: results for name, results in facts.scores.items() if results and results[0]["task"] == task}


def _limited(results: Sequence[dict[str, Any]], of: str = "") -> str:
    """What a note says of scores under --limit."""
    limit = results[0].get("limit")
    return f" {of}{limit} samples only." if limit else ""


def _bars(results: Sequence[dict[str, Any]], columns: dict[str, str], ylabel: str, chance: float | None = None) -> str:
    """Bars of the single stages and the fused model."""
    series = {
        each["model"]: [each["metrics"].get(key, math.nan) for key in columns.values()]
        for each in results
        if not each["model"].startswith("fused_")
    }
    return plots.bars(list(columns), series, ylabel, chance)


def _table(results: Sequence[dict[str, Any]], columns: dict[str, str]) -> dict[str, Any]:
    """Cells in percent, with their value for the shade; the best of a column is marked, the first has its interval.

    A row without the metric has a dash.
    """
    known = {key: [each["metrics"].get(key) for each in results] for key in columns.values()}
    best = {key: max((value for value in values if value is not None), default=None) for key, values in known.items()}
    rows = []
    for each in results:
        cells = []
        for number, key in enumerate(columns.values()):
            value, ends = each["metrics"].get(key), each["intervals"].get(key)
            note = interval(ends) if number == 0 and ends else ""
            is_best = value is not None and value == best[key]
            cells.append({"text": percent(value), "shade": value or 0, "best": is_best, "note": note})
        rows.append({"model": each["model"], "cells": cells})
    return {"header": list(columns), "rows": rows}
