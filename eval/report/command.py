"""mcl-report: what every stage learned, as report.html (self-contained) and report.md in the run directory."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.report import plots
from eval.report.left_out import read_left_out
from eval.report.one_or_all import one_or_all
from eval.report.pages import TEMPLATES
from eval.report.run_facts import RunFacts, read_run
from eval.report.sections import of_several, of_task, other_sections, pair_sections, zero_shot_sections
from eval.report.verdict import PAIR, verdict
from eval.scores import interval, percent
from mcl_clip.artifacts import atomic_path
from mcl_clip.errors import exit_on_user_error
from mcl_clip.help_text import with_examples
from mcl_clip.launch import one_process


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write report.html and report.md of a run directory, or of mcl-eval's output, from what stands in it.

    They go to the directory `output`, by default `run`. Returns the page's path.
    """
    output = output or run
    facts = read_run(run)
    pairs = of_task(facts, "mmvp_vlm")
    content = {
        "name": facts.name,
        "verdict": [of_several(pairs, name, line) for name, results in pairs.items() for line in verdict(results)],
        "tiles": [
            tile | {"label": of_several(pairs, name, tile["label"])}
            for name, results in pairs.items()
            for tile in tiles(results)
        ],
        "made": made_of(facts.recipe),
        "sections": [*pair_sections(pairs), *zero_shot_sections(facts), *other_sections(facts), *one_or_all(facts)],
        "failed": facts.failed,
        "losses": loss_picture(facts),
        "clusterings": clusterings(facts),
        "known": known_features(facts),
        "left_out": read_left_out(run),
        "versions": facts.recipe.get("versions", {}),
    }
    for name in ("report.md", "report.html"):
        with atomic_path(output / name) as temporary:
            temporary.write_text(TEMPLATES.get_template(f"{name}.j2").render(content), encoding="utf-8")
    return output / "report.html"


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
        "objective": recipe.get("objective", {}).get("objective"),
        "data": data.get("train_data"),
        "global batch": data.get("global_batch"),
        "stages after stage 0": len(stages) - 1 if stages else None,
        "clusters": stages[0].get("clusters") if stages else None,
        "epochs a stage": ", ".join(str(each.get("epochs")) for each in stages.values()),
        "seed": recipe.get("seed"),
    }
    return " · ".join(f"{name}: {value}" for name, value in known.items() if value not in (None, ""))


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
            "summary": _evenness(each.facts),
            "previous": each.facts.get("previous_stages", []),
            "montages": [
                {"cluster": number, "size": size, "data": plots.montage(images)}
                for number, (size, images) in enumerate(zip(each.facts["sizes"], each.examples, strict=False))
            ],
        }
        for each in facts.clusterings
    ]


def _evenness(facts: dict[str, Any]) -> str:
    return (
        f"{len(facts['sizes'])} clusters, as uneven as {facts['imbalance']['effective_clusters']:.1f} of one size; "
        f"mean squared distance to the centroid {facts['mean_squared_distance']:.3f}; "
        f"{facts['failed']['count']} of {facts['samples']} samples failed."
    )


def _order(shown: Sequence[Any], name: str) -> list[float]:
    return [-each.attributes.get(name, 0.0) for each in shown]


@exit_on_user_error
@one_process
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="mcl-report",
        description=with_examples(
            ("mcl-report runs/demo", "mcl-report runs/demo --output runs/demo-report"),
            "Write report.html (self-contained) and report.md into a run directory, from what stands in it: every "
            "scores file in RUN/scores, the losses, the clusters of every stage; or into the output of mcl-eval.",
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the run directory, or the --output of mcl-eval")
    parser.add_argument("--output", type=Path, help="directory of the report (default: RUN)")
    args = parser.parse_args(argv)
    print(write_report(args.run, args.output))
    return 0
