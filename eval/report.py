"""mcl-report: what every stage learned, as report.html (self-contained) and report.md in the run directory."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval import plots
from eval.pages import TEMPLATES
from eval.report_data import RunFacts, read_run
from eval.scores import interval, percent
from eval.verdict import PAIR, types_of, verdict
from mcl_clip.artifacts import atomic_path
from mcl_clip.errors import exit_on_user_error


def write_report(run: Path) -> Path:
    """Write report.html and report.md of a run directory from what stands in it; returns the page's path."""
    facts = read_run(run)
    pairs = _of_task(facts, "mmvp_vlm")
    content = {
        "name": facts.name,
        "verdict": [line for results in pairs.values() for line in verdict(results)],
        "tiles": [tile for results in pairs.values() for tile in tiles(results)],
        "made": made_of(facts.recipe),
        "sections": [*pair_sections(pairs), *zero_shot_sections(facts), *other_sections(facts)],
        "losses": loss_picture(facts),
        "clusterings": clusterings(facts),
        "known": known_features(facts),
        "versions": facts.recipe.get("versions", {}),
    }
    for name in ("report.md", "report.html"):
        with atomic_path(run / name) as temporary:
            temporary.write_text(TEMPLATES.get_template(f"{name}.j2").render(content), encoding="utf-8")
    return run / "report.html"


def tiles(pairs: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The three numbers that matter most, for the head of the page."""
    rows = {each["model"]: each for each in pairs}
    if not {"stage_0", "fused"} <= set(rows):
        return []
    fused = rows["fused"]
    low, high = fused["intervals"]["gain"]
    return [
        *(
            {
                "label": label,
                "value": f"{percent(rows[row]['metrics'][PAIR])} %",
                "note": interval(rows[row]["intervals"][PAIR]),
            }
            for row, label in (("stage_0", "stage 0"), ("fused", "fused"))
        ),
        {
            "label": "gain",
            "value": f"{100 * fused['metrics']['gain']:+.1f}",
            "note": f"{100 * low:+.1f} to {100 * high:+.1f}",
        },
    ]


def made_of(recipe: dict[str, Any]) -> str:
    """The recipe in one line."""
    data, stages = recipe.get("data", {}), recipe.get("stages", {})
    known = {
        "model": " ".join(filter(None, (recipe.get("model", {}).get(name) for name in ("model", "pretrained")))),
        "data": data.get("train_data"),
        "global batch": data.get("global_batch"),
        "stages after stage 0": len(stages) - 1 if stages else None,
        "clusters": stages[0].get("clusters") if stages else None,
        "epochs a stage": ", ".join(str(each.get("epochs")) for each in stages.values()),
        "seed": recipe.get("seed"),
    }
    return " · ".join(f"{name}: {value}" for name, value in known.items() if value not in (None, ""))


def pair_sections(pairs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of every MMVP scores file: bars by pattern, and the numbers with the mean's interval."""
    made = []
    for results in pairs.values():
        types = types_of(results)
        columns = {"mean": PAIR} | {name: f"{PAIR}/{name}" for name in types}
        made.append(
            {
                "title": "Pair accuracy by pattern",
                "note": "Two images, two texts: a pair counts when each text picks its own image. Percent, chance is "
                "25. What stage 0 sees least stands first.",
                "picture": _bars(results, {name: columns[name] for name in types}, "pairs right, %", 0.25),
                "table": _table(results, columns),
            }
        )
    return made


def zero_shot_sections(facts: RunFacts) -> list[dict[str, Any]]:
    """All zero-shot sets together: a column a set; what stage 0 sees least stands first."""
    files = _of_task(facts, "zeroshot_classification")
    names = sorted(files, key=lambda name: files[name][0]["metrics"]["acc1"])
    rows = [each["model"] for each in files[names[0]]] if names else []
    results = []
    for row in rows:
        found = {name: each for name in names for each in files[name] if each["model"] == row}
        metrics = {name.removeprefix("zero_shot_"): each["metrics"]["acc1"] for name, each in found.items()}
        mean = sum(metrics.values()) / len(metrics)
        results.append({"model": row, "metrics": {"mean": mean} | metrics, "intervals": {}})
    if not results:
        return []
    sets = {name.removeprefix("zero_shot_"): name.removeprefix("zero_shot_") for name in names}
    section = {
        "title": "Zero-shot accuracy",
        "note": "Top-1 accuracy in percent, a column a set.",
        "picture": _bars(results, sets, "top-1, %"),
        "table": _table(results, {"mean": "mean"} | sets),
    }
    return [section]


def other_sections(facts: RunFacts) -> list[dict[str, Any]]:
    """Every other scores file: what has an interval is a score."""
    made = []
    for name, results in facts.scores.items():
        if results and results[0]["task"] not in ("mmvp_vlm", "zeroshot_classification"):
            scores = [key for key, ends in results[0]["intervals"].items() if ends and isinstance(ends[0], float)]
            table = _table(results, {key: key for key in scores})
            made.append({"title": name.replace("_", " "), "note": "Percent.", "picture": None, "table": table})
    return made


def loss_picture(facts: RunFacts) -> str | None:
    """Curves of every stage's loss; None when there are none."""
    curves = {
        f"stage_{stage}": ([row["step"] + 1 for row in rows], [max(row["loss_mean"], 1e-6) for row in rows])
        for stage, rows in facts.losses.items()
        if rows
    }
    return plots.lines(curves, "step of the stage", "loss") if curves else None


def known_features(facts: RunFacts) -> dict[str, Any] | None:
    """Which known feature each stage's clusters follow: normalised mutual information, a column a stage."""
    shown = [each for each in facts.clusterings if each.attributes]
    names = sorted({name for each in shown for name in each.attributes}, key=lambda name: _order(shown, name))
    if not names:
        return None
    rows = [[name, *(each.attributes.get(name) for each in shown)] for name in names]
    return {"header": [f"stage_{each.stage}" for each in shown], "rows": rows}


def clusterings(facts: RunFacts) -> list[dict[str, Any]]:
    """Every clustering step: sizes, what it shares with the steps before, samples of each cluster."""
    return [
        {
            "stage": each.stage,
            "sizes": each.facts["sizes"],
            "previous": each.facts.get("previous_stages", []),
            "montages": [
                {"cluster": number, "size": size, "data": plots.montage(images)}
                for number, (size, images) in enumerate(zip(each.facts["sizes"], each.examples, strict=False))
            ],
        }
        for each in facts.clusterings
    ]


def _order(shown: Sequence[Any], name: str) -> list[float]:
    return [-each.attributes.get(name, 0.0) for each in shown]


def _of_task(facts: RunFacts, task: str) -> dict[str, list[dict[str, Any]]]:
    return {name: results for name, results in facts.scores.items() if results and results[0]["task"] == task}


def _bars(results: Sequence[dict[str, Any]], columns: dict[str, str], ylabel: str, chance: float | None = None) -> str:
    """Bars of the single stages and the fused model."""
    series = {
        each["model"]: [each["metrics"][key] for key in columns.values()]
        for each in results
        if not each["model"].startswith("fused_")
    }
    return plots.bars(list(columns), series, ylabel, chance)


def _table(results: Sequence[dict[str, Any]], columns: dict[str, str]) -> dict[str, Any]:
    """Cells in percent, with their value for the shade; the best of a column is marked, the first has its interval."""
    best = {key: max(each["metrics"][key] for each in results) for key in columns.values()}
    rows = []
    for each in results:
        cells = []
        for number, key in enumerate(columns.values()):
            value, ends = each["metrics"][key], each["intervals"].get(key)
            note = interval(ends) if number == 0 and ends else ""
            cells.append({"text": percent(value), "shade": value, "best": value == best[key], "note": note})
        rows.append({"model": each["model"], "cells": cells})
    return {"header": list(columns), "rows": rows}


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-report",
        description="Write report.html (self-contained) and report.md into a run directory, from what stands in it: "
        "every scores file in RUN/scores, the losses, the clusters of every stage.",
    )
    parser.add_argument("run", type=Path, help="the run directory, for example runs/demo")
    args = parser.parse_args(argv)
    print(write_report(args.run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
