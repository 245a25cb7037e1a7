"""docs/study/README.md, written from the results alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.intervals import Interval, interval
from benchmarks.study.tables import percent, points, table
from benchmarks.suppression.measures import MEASURES
from benchmarks.suppression.plots import TITLES, draw_arms
from benchmarks.suppression.summary import (
    CONTROLS,
    METHODS,
    arms_of,
    costs,
    differences,
    headline,
    learnable,
    suppressed,
    values_of,
)
from benchmarks.suppression.units import FUSIONS
from demo.features import NAMES
from mcl_clip.artifacts import atomic_path, read_json, write_json

INTRODUCTION = """# Does it work? MCL against controls of equal compute

Written by `python -m benchmarks.suppression` from its results; every number below is measured. Images of 32
pixels with {count} independent features ({names}) and captions that name them; a four-layer convolutional
tower. {images:,} training images, {epochs} epochs a share of compute, batch {batch}, K = {clusters}, {shares}
shares for every arm but stage 0; one learning rate ({lr:g}) for all arms. Images are held in memory and not
augmented, so that no arm waits for a loader; plan, loss, k-means and fusion are mcl_clip's own. Pair accuracy
is MMVP's (chance 25 %), zero-shot prompts name one feature alone, the linear probe is ridge regression on the
embedding. {seeds} seeds of data and weights; intervals are Student's 95 % over seeds.
"""


def write_page(directory: Path, seeds: Sequence[dict[str, Any]], ablations: dict[str, dict[str, Any]]) -> None:
    """Write README.md, results.json and the plots; ablations of an earlier command are kept."""
    results = directory / "results.json"
    if not ablations and results.is_file():
        ablations = read_json(results).get("ablations", {})
    hidden = suppressed(seeds)
    write_json(
        results,
        {
            "headline": headline(seeds),
            "settings": seeds[0]["settings"],
            "seeds": [{"seed": each["seed"], "scores": each["scores"], "models": each["models"]} for each in seeds],
            "ablations": ablations,
        },
    )
    for feature in ("mean", hidden):
        draw_arms(directory / f"arms_{'mean' if feature == 'mean' else 'suppressed'}.svg", seeds, feature, "concat")
    settings = seeds[0]["settings"]
    parts = [
        INTRODUCTION.format(
            **settings
            | {
                "seeds": len(seeds),
                "count": len(NAMES),
                "names": ", ".join(NAMES),
                "shares": settings["stages"] + 1,
            }
        ),
        _verdict(seeds, hidden),
        "![Mean of all features, every arm](arms_mean.svg)",
        f"![{hidden}, every arm](arms_suppressed.svg)",
        "## Every arm\n",
        _arms(seeds, hidden, "concat"),
        "The same models fused by `mean-cosine`:\n",
        _arms(seeds, hidden, "mean-cosine"),
        "## MCL minus the controls, paired by seed\n",
        *(_differences(seeds, measure, feature) for feature in ("mean", hidden) for measure in MEASURES),
        "## Every feature, pair accuracy\n",
        _features(seeds),
        _learnable(seeds),
        _costs(seeds),
        _ablations(ablations, hidden),
    ]
    with atomic_path(directory / "README.md") as temporary:
        temporary.write_text("\n".join(part for part in parts if part).rstrip() + "\n")


def _verdict(seeds: Sequence[dict[str, Any]], hidden: str) -> str:
    comparisons = [(measure, feature) for measure in MEASURES for feature in ("mean", hidden)]
    found = {comparison: differences(seeds, "concat", *comparison) for comparison in comparisons}
    rows = []
    for method in METHODS:
        verdicts = {control: [found[each][method][control].verdict for each in comparisons] for control in CONTROLS}
        rows.append([method, *(_count(verdicts[control]) for control in CONTROLS)])
    text = (
        f"## What came out\n\nStage 0 suppressed **{hidden}** most. Below, each method against each control at equal "
        f"compute, in {len(comparisons)} comparisons: three measures, in the mean of all features and for {hidden}. "
        "One is won or lost when the 95 % interval of the difference, paired by seed, is on one side of zero; else it "
        "is a tie. The differences themselves stand further down.\n\n"
    )
    if len(seeds) < 2:
        text += "One seed has no interval over seeds: nothing is claimed to win or lose.\n\n"
    return text + table(["against", *CONTROLS], rows)


def _count(verdicts: Sequence[str]) -> str:
    """wins 4, ties 2."""
    counts = {word: verdicts.count(word) for word in ("wins", "ties", "loses")}
    return ", ".join(f"{word} {count}" for word, count in counts.items() if count)


def _arms(seeds: Sequence[dict[str, Any]], hidden: str, fusion: str) -> str:
    header = [
        "arm",
        *(f"{TITLES[measure]}, {feature}" for measure in MEASURES for feature in ("mean", hidden)),
    ]
    rows = [
        [
            arm,
            *(
                percent(_of(seeds, arm, measure, feature, fusion))
                for measure in MEASURES
                for feature in ("mean", hidden)
            ),
        ]
        for arm in arms_of(seeds)
        if not arm.endswith("alone")
    ]
    return table(header, rows)


def _differences(seeds: Sequence[dict[str, Any]], measure: str, feature: str) -> str:
    found = differences(seeds, "concat", measure, feature)
    rows = [[method, *(points(found[method][control]) for control in CONTROLS)] for method in METHODS]
    return table([f"{TITLES[measure]}, {feature}: points", *CONTROLS], rows)


def _features(seeds: Sequence[dict[str, Any]]) -> str:
    arms = ["stage 0", *CONTROLS, *METHODS, "oracle, all features"]
    rows = [[arm, *(percent(_of(seeds, arm, "pairs", name, "concat")) for name in NAMES)] for arm in arms]
    return table(["arm", *NAMES], rows)


def _learnable(seeds: Sequence[dict[str, Any]]) -> str:
    rows = [[name, percent(found)] for name, found in learnable(seeds).items()]
    text = (
        "## Is every feature within reach?\n\nOne share from stage 0 with negatives that agree in all features "
        "but the named one; pair accuracy of that model alone on that feature.\n"
    )
    return text + "\n" + table(["feature", "pair accuracy"], rows)


def _costs(seeds: Sequence[dict[str, Any]]) -> str:
    cost = costs(seeds)
    train, cluster = cost["training_seconds_a_share"], cost["clustering_seconds"]
    return (
        f"## Cost\n\nA share of training took {train:.0f} s on one core, embedding and clustering its training "
        f"set {cluster:.1f} s ({100 * cluster / train:.1f} % on top, once a stage; not counted as compute). All models "
        f"of a seed together took {cost['seconds_a_seed'] / 60:.1f} minutes of one core.\n"
    )


def _ablations(ablations: dict[str, dict[str, Any]], hidden: str) -> str:
    if not ablations:
        return ""
    header = [
        "changed",
        "stage 0, mean",
        "fused, mean",
        f"stage 0, {hidden}",
        f"fused, {hidden}",
        f"probe, {hidden}",
    ]
    rows = []
    for name, each in ablations.items():
        for arm, scores in each["scores"].items():
            if arm == "stage 0":
                continue
            first = each["scores"]["stage 0"]
            values = [value["pairs"][feature] for feature in ("mean", hidden) for value in (first, scores)] + [
                scores["probe"][hidden]
            ]
            rows.append([f"{name}; {arm}", *(f"{100 * value:.1f}" for value in values)])
    text = (
        "## Ablations\n\nOne seed each, MCL from the previous stage, pair accuracy (and the probe) in percent: "
        "differences of a few points are noise.\n"
    )
    return text + "\n" + table(header, rows)


def ablation_record(scores: dict[str, Any]) -> dict[str, Any]:
    """One ablation for the page: every number of stages, fused by either rule."""
    flat = {}
    for fusion in FUSIONS:
        for arm, found in scores["scores"][fusion].items():
            if arm == "stage 0" and fusion != FUSIONS[0]:
                continue
            flat[arm if arm == "stage 0" else f"{arm}, {fusion}"] = found
    return {"settings": scores["settings"], "scores": flat}


def _of(seeds: Sequence[dict[str, Any]], arm: str, measure: str, feature: str, fusion: str) -> Interval:
    return interval(values_of(seeds, arm, measure, feature, fusion))
