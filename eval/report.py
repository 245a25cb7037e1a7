"""mcl-report: what every stage learned, as report.html (self-contained) and report.md in the run directory."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from eval import plots
from eval.report_data import RunFacts, read_run
from mcl_clip.artifacts import atomic_path
from mcl_clip.errors import exit_on_user_error

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def write_report(run: Path) -> Path:
    """Write report.html and report.md of a run directory from what stands in it; returns the page's path."""
    facts = read_run(run)
    content = {
        "name": facts.name,
        "verdict": verdict(facts.pairs),
        "tables": tables(facts),
        "pictures": pictures(facts),
        "clusterings": clusterings(facts),
        "packages": facts.recipe.get("packages", {}),
    }
    page = run / "report.html"
    for name in ("report.html", "report.md"):
        template = _TEMPLATES.get_template(f"{name}.j2")
        with atomic_path(run / name) as temporary:
            temporary.write_text(template.render(content), encoding="utf-8")
    return page


def verdict(pairs: dict[str, dict[str, Any]]) -> list[str]:
    """What the fused model gained over stage 0 on the pairs, and whether it is more than chance would give."""
    if not {"stage_0", "fused"} <= set(pairs):
        return []
    base, fused = pairs["stage_0"], pairs["fused"]
    gain = fused["pair_accuracy"] - base["pair_accuracy"]
    word = "above" if gain > 0 else "not above"
    said = [
        f"In mean pair accuracy the fused model is {word} stage 0: "
        f"{percent(fused['pair_accuracy'])} against {percent(base['pair_accuracy'])} ({100 * gain:+.1f} points)."
    ]
    weakest = min(types_of(pairs), key=lambda name: base[f"pair_accuracy/{name}"])
    low, high = (fused[f"gain_{end}/{weakest}"] for end in ("low", "high"))
    before, after = (percent(each[f"pair_accuracy/{weakest}"]) for each in (base, fused))
    said.append(
        f"Stage 0 suppressed {weakest} most ({before}); the fused model reaches {after}: a gain of "
        f"{100 * fused[f'gain/{weakest}']:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f} "
        "(paired bootstrap over the pairs)"
        + ("." if low > 0 else ": this run does not show that the feature was recovered.")
    )
    return said


def types_of(pairs: dict[str, dict[str, Any]]) -> list[str]:
    """The Types of the pair benchmark; what the first model sees least comes first."""
    metrics = next(iter(pairs.values()))
    names = [name for name in metrics if name.startswith("pair_accuracy/")]
    return [name.removeprefix("pair_accuracy/") for name in sorted(names, key=metrics.__getitem__)]


def sets_of(zero_shot: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """The zero-shot sets; what the first model sees least comes first."""
    return sorted(zero_shot, key=lambda name: next(iter(zero_shot[name].values()))["acc1"])


def tables(facts: RunFacts) -> list[dict[str, Any]]:
    """Pair accuracy by Type and zero-shot accuracy by set, a line a model."""
    made = []
    if facts.pairs:
        types = types_of(facts.pairs)
        rows = [
            [row, percent(each["pair_accuracy"]), *(percent(each[f"pair_accuracy/{name}"]) for name in types)]
            for row, each in facts.pairs.items()
        ]
        note = "percent; chance is 25"
        made.append({"title": "Pair accuracy", "note": note, "header": ["mean", *types], "rows": rows})
    if facts.zero_shot:
        sets = sets_of(facts.zero_shot)
        rows = []
        for row in next(iter(facts.zero_shot.values())):
            values = [facts.zero_shot[name][row]["acc1"] for name in sets]
            rows.append([row, percent(sum(values) / len(values)), *map(percent, values)])
        made.append({"title": "Zero-shot accuracy", "note": "top-1, percent", "header": ["mean", *sets], "rows": rows})
    return made


def pictures(facts: RunFacts) -> list[dict[str, str]]:
    """Bars by feature and loss curves, with a text for those who cannot see them."""
    made = []
    shown = [row for row in facts.pairs if not row.startswith("fused_")]
    if shown:
        types = types_of(facts.pairs)
        series = {row: [facts.pairs[row][f"pair_accuracy/{name}"] for name in types] for row in shown}
        made.append(
            {
                "title": "Pair accuracy by feature",
                "alt": "Bars: pair accuracy of every stage and the fused model by feature; numbers in the table below",
                "data": plots.bars(types, series, "pairs right, %", 0.25),
            }
        )
    if facts.zero_shot:
        sets = sets_of(facts.zero_shot)
        rows = [row for row in next(iter(facts.zero_shot.values())) if not row.startswith("fused_")]
        series = {row: [facts.zero_shot[name][row]["acc1"] for name in sets] for row in rows}
        made.append(
            {
                "title": "Zero-shot accuracy by feature",
                "alt": "Bars: zero-shot accuracy of every stage and the fused model by set; numbers in the table below",
                "data": plots.bars(sets, series, "top-1, %"),
            }
        )
    curves = {
        f"stage_{stage}": ([row["step"] + 1 for row in rows], [max(row["loss_mean"], 1e-6) for row in rows])
        for stage, rows in facts.losses.items()
        if rows
    }
    if curves:
        made.append(
            {
                "title": "Loss",
                "alt": "Curves: contrastive loss of every stage by step",
                "data": plots.lines(curves, "step of the stage", "loss"),
            }
        )
    return made


def clusterings(facts: RunFacts) -> list[dict[str, Any]]:
    """Every clustering step: sizes, what the clusters know of each feature, samples of each cluster."""
    return [
        {
            "stage": each.stage,
            "sizes": each.facts["sizes"],
            "attributes": sorted(each.attributes.items(), key=lambda item: -item[1]),
            "previous": each.facts.get("previous_stages", []),
            "montages": [
                {"cluster": number, "size": size, "data": plots.montage(images)}
                for number, (size, images) in enumerate(zip(each.facts["sizes"], each.examples, strict=False))
            ],
        }
        for each in facts.clusterings
    ]


def percent(value: float | None) -> str:
    """One decimal, or a dash."""
    return "-" if value is None else f"{100 * value:.1f}"


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-report", description="Write report.html and report.md into a run directory, from what stands in it."
    )
    parser.add_argument("run", type=Path, help="the run directory, for example runs/demo")
    args = parser.parse_args(argv)
    print(write_report(args.run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
