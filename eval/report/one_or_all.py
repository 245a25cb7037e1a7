"""What all stages fused, or a student of them, gain over one stage alone, and at what cost."""

from typing import Any

from eval.report.run_facts import STUDENT, RunFacts
from eval.report.sections import of_task, zero_shot_means
from eval.report.verdict import PAIR, types_of
from eval.scores import percent


def one_or_all(facts: RunFacts) -> list[dict[str, Any]]:
    """One stage, all of them fused and a student side by side; nothing where no weights were fitted and no student is.

    Fitted weights bring the best stage on the pairs that fit, and concat.
    """
    fit = facts.fused.get("card", {}).get("fit") if facts.fused.get("fusion") == "fitted" else None
    sharing = facts.fused.get("sharing")
    has_student = any(each["model"] == STUDENT for results in facts.scores.values() for each in results)
    if not sharing or not (fit or has_student):
        return []
    stages = len(facts.fused["stages"])
    last = f"stage_{stages - 1}"
    every = {tower: stages * each["steps"] / each["separate"] for tower, each in sharing.items()}
    one = dict.fromkeys(every, 1.0)
    shown = [(f"last stage: {last}", last, one)]
    note = "Percent. Cost: blocks that run for an image or a text, in those of one stage."
    if fit:
        best = f"stage_{fit['best_stage']}"
        weights = " : ".join(f"{weight:.2f}" for weight in facts.fused["weights"])
        shown.insert(0, (f"best stage on the pairs that fit: {best}", best, one))
        shown += [("concat", "fused_concat", every), (f"fitted, {weights}", "fused", every)]
        note += (
            f" The best stage is that of the least loss on the {fit['pairs']} pairs that the weights were fitted on, "
        )
        note += "not of the best scores here."
    else:
        shown.append((facts.fused["fusion"], "fused", every))
    if has_student:
        shown.append(("student of the fused model", STUDENT, one))
    scores = _scores(facts)
    columns = {name: [found.get(row) for _, row, _ in shown] for name, found in scores.items()}
    rows = []
    for place, (name, _, cost) in enumerate(shown):
        cells = [{"text": f"{cost[tower]:.1f} x", "shade": 0, "best": False, "note": ""} for tower in every]
        for values in columns.values():
            value, known = values[place], [value for value in values if value is not None]
            is_best = value is not None and value == max(known)
            cells.append({"text": percent(value), "shade": value or 0, "best": is_best, "note": ""})
        rows.append({"model": name, "cells": cells})
    header = [*(f"cost, {tower}s" for tower in every), *columns]
    return [{"title": "One stage or all", "note": note, "picture": None, "table": {"header": header, "rows": rows}}]


def _scores(facts: RunFacts) -> dict[str, dict[str, float]]:
    """{column: {row of the scores files: value}}: pairs and what stage 0 sees least of them, and zero-shot sets."""
    columns: dict[str, dict[str, float]] = {}
    for name, results in facts.scores.items():
        rows = {each["model"]: each["metrics"] for each in results}
        if results and results[0]["task"] == "mmvp_vlm":
            columns[f"{name}, mean"] = {row: metrics[PAIR] for row, metrics in rows.items()}
            weakest = types_of(results)[0]
            columns[f"{name}, {weakest}"] = {row: metrics[f"{PAIR}/{weakest}"] for row, metrics in rows.items()}
    if files := of_task(facts, "zeroshot_classification"):
        columns["zero-shot, mean"] = zero_shot_means(files)[0]
    return columns
