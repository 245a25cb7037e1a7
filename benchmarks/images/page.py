"""docs/study-images/README.md, written from the results alone."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.images import ablations
from benchmarks.images.measures import MEASURES, PROBE, PROJECTED
from benchmarks.images.sections import TITLES, cost, every_arm, secondary
from benchmarks.images.settings import (
    ARTIST,
    CHOOSING_SEEDS,
    CHOSEN,
    IFM,
    RATE_OF,
    SEEDS,
    SHORT,
    Settings,
    World,
    rules,
    short,
    tries,
)
from benchmarks.images.summary import (
    SUMMARY,
    arms_of,
    finished,
    headline,
    primary,
    suppressed,
    values_of,
)
from benchmarks.images.tower import PROJECTION, WIDTHS
from benchmarks.images.trifeature import FEATURES
from benchmarks.study.plots import draw_arms
from benchmarks.study.results import Results, every_run
from benchmarks.study.settings import BASE, CONTROLS, FROM_BASE, MCL
from benchmarks.study.tables import points, table
from mcl_clip.artifacts import atomic_path, write_json

COLORS = {BASE: "#9aa5b1"} | dict.fromkeys((*CONTROLS, IFM), "#4c78a8") | dict.fromkeys((MCL, FROM_BASE), "#e45756")
INTRODUCTION = """# Does it work on images alone? MCL of SimCLR against controls of equal compute

Written by `python -m benchmarks.images report` from `units/`, one file an arm and seed; every number below is
measured. `make study-images` trains what is missing and writes this page again.

Pictures as Trifeature's (Hermann & Lampinen 2020, [arXiv 2006.12433](https://arxiv.org/abs/2006.12433)), generated
anew at 32 pixels: one object, 10 shapes x 10 colours x 10 textures, each independent, shape and texture turned by up to
45 degrees, placed at random. {images:,} of them to train on, without labels; {width} features of a four-layer
convolutional tower (`mcl_tiny_conv`, narrower, its last map averaged), a head of {width}-{width}-{projection}, SimCLR's
loss within pseudo-labels (temperature {temperature:g}). Two views a picture: crops of {low:.0%} to all of its area and
flips, neither colour jitter nor gray in the primary setting. {epochs} epochs a share of compute, batch {batch},
K = {clusters} clusters of {clustered}, segments of {segment} or more, {shares} shares for every arm but stage 0. Views,
plan, loss, k-means, fusion and probe are mcl_clip's own; pictures are held in memory. The probe is multinomial logistic
regression on unit features of {probe:,} other pictures, scored on {test:,} more; chance is 10 %. Seeds {seeds} of
pictures and weights; intervals are Student's 95 % over seeds. The models of an arm are concatenated.

What was arranged: a share is short, so that all of this runs on two cores, and the pictures' contrast and crops were
set on seed 100 so that stage 0 suppresses a feature and there is something to win. Rates and rule were chosen on seeds
from 100 on too (below), and committed before the five seeds were run.
"""
PRIMARY = """## What came out

Primary: accuracy of the linear probe of MCL minus that of each control of equal compute, in points, paired by seed;
intervals are simultaneous under Holm's procedure over these {count} comparisons. All else on this page is secondary.
**{verdict}.**

{rows}
Stage 0 suppressed **{hidden}** most.
"""
RATES_TEXT = """## Choosing the rates

Every arm's own learning rate, of its further stages (of all of it for the long run, the ensemble and {ifm}): mean probe
accuracy, percent, the chosen one in bold; seeds: {seeds}. {from_base} takes the rate of MCL. At the edge of what was
tried: {edge}.

{rows}"""
RULES_TEXT = """## Choosing the rule

MCL with one thing changed, at one rate of {rate:g}; seeds: {seeds}. *Features* and *projections* are what of the models
is concatenated and probed.

{rows}"""
SHORT_TEXT = """## How long a share is

Arms before rates and rule were chosen, at one rate of {rate:g}, features of seeds {seeds}: with a share of {few} epochs
(K = {clusters} clusters of features), tried first, and of {many}, the study's. In the short one stage 0 has not learned
what MCL could build on.

{rows}"""
ABLATIONS = """## Ablations

`python -m benchmarks.images ablate`: rates and rule as chosen for the primary setting, two seeds ({seeds}), linear
probe, percent. With *{colour}* (SimCLR's: jitter of 0.8, gray of 0.2) the views of a picture do not share its colour.
The emoji are those that `python -m benchmarks.emoji data` draws: {images:,} of four artists to train on, the fifth
({artist}) scored, the probe fitted on drawings of the four; without flips, which hide a direction.

{rows}"""
RUNS = """## Every run

Concatenated, percent; what each was made of stands in `units/`.

{rows}"""


def write_page(directory: Path, results: Results) -> None:
    """Write README.md, results.json and the plots from what stands in `directory`/units."""
    parts = [_introduction()]
    if finished(results):
        hidden = suppressed(results)
        for name, feature in (("mean", "mean"), ("suppressed", hidden)):
            panels = {
                TITLES[measure]: {
                    arm: values_of(results, models, f"{measure} {feature}") for arm, models in arms_of(results).items()
                }
                for measure in MEASURES
            }
            heading = "mean of all features" if feature == "mean" else f"{feature}, which stage 0 suppressed"
            draw_arms(directory / f"arms_{name}.svg", panels, COLORS, heading)
        parts += [
            _primary(results, hidden),
            "![Mean of all features, every arm](arms_mean.svg)\n",
            f"![{hidden}, every arm](arms_suppressed.svg)\n",
            every_arm(results, hidden),
            secondary(results, hidden),
            cost(results),
        ]
        write_json(directory / "results.json", headline(results))
    else:
        parts.append("## What came out\n\nNot all runs are there yet; `make study-images` goes on.\n")
    parts += [_rates(results), _rules(results), _short(results), _ablations(results), _runs(results)]
    with atomic_path(directory / "README.md") as temporary:
        temporary.write_text("\n".join(part for part in parts if part).rstrip() + "\n", encoding="utf-8")


def _introduction() -> str:
    world = World()
    return INTRODUCTION.format(
        images=world.images,
        probe=world.probe_images,
        test=world.test_images,
        width=WIDTHS[-1],
        projection=PROJECTION,
        temperature=CHOSEN.temperature,
        low=CHOSEN.augmentations.scale[0],
        epochs=CHOSEN.epochs,
        batch=CHOSEN.batch,
        clusters=CHOSEN.clusters,
        clustered="features" if CHOSEN.clustered == "images" else CHOSEN.clustered,
        segment=CHOSEN.min_segment,
        shares=CHOSEN.stages + 1,
        seeds=", ".join(map(str, SEEDS)),
    )


def _primary(results: Results, hidden: str) -> str:
    found = primary(results)
    rows = [
        [feature, control, points(gap), gap.verdict, *(f"{100 * each:+.1f}" for each in gaps)]
        for (feature, control), (gap, gaps) in found.items()
    ]
    seeds = [f"seed {seed}" for seed in SEEDS[: len(next(iter(found.values()))[1])]]
    counted = Counter(gap.verdict for gap, _ in found.values())
    verdict = f"{counted['wins']} wins, {counted['ties']} ties, {counted['loses']} losses"
    return PRIMARY.format(
        count=len(found),
        verdict=verdict,
        hidden=hidden,
        rows=table(["probe of", "MCL minus", "difference", "", *seeds], rows),
    )


def _rates(results: Results) -> str:
    chosen = {name: getattr(CHOSEN, field) for name, field in RATE_OF.items()}
    rows, edge = SUMMARY.rates(results, tries(), chosen, CHOOSING_SEEDS)
    return RATES_TEXT.format(ifm=IFM, seeds=_listed(CHOOSING_SEEDS), from_base=FROM_BASE, edge=edge, rows=rows)


def _rules(results: Results) -> str:
    measures = [*(f"{PROBE} {name}" for name in ("mean", *FEATURES)), f"{PROJECTED} mean"]
    rows = [
        [name, *(SUMMARY.shown(results, arm, measure, CHOOSING_SEEDS) for measure in measures)]
        for name, arm in rules().items()
    ]
    header = ["changed", "features, mean", *FEATURES, "projections, mean"]
    rate = rules()["as the study"].models[-1].recipe.lr
    return RULES_TEXT.format(rate=rate, seeds=_listed(CHOOSING_SEEDS), rows=table(header, rows))


def _short(results: Results) -> str:
    measures = [f"{PROBE} {name}" for name in ("mean", *FEATURES)]
    longer = Settings().arms()
    rows = [
        [
            arm.name,
            *(
                SUMMARY.shown(results, each, measure, CHOOSING_SEEDS)
                for each in (arm, longer[arm.name])
                for measure in measures
            ),
        ]
        for arm in short()
    ]
    few, many = SHORT["epochs"], Settings().epochs
    header = ["arm", *(f"{epochs} epochs, {name}" for epochs in (few, many) for name in ("mean", *FEATURES))]
    return SHORT_TEXT.format(
        rate=Settings().lr,
        seeds=_listed(CHOOSING_SEEDS),
        few=few,
        many=many,
        clusters=SHORT["clusters"],
        rows=table(header, rows),
    )


def _ablations(results: Results) -> str:
    text = ""
    for name, features in ablations.SCORED.items():
        arms = ablations.arms_of(name)
        place = next((place for place, _, key in results.runs if key == arms[-1].key), None)
        rows = [
            [
                arm.name,
                *(
                    SUMMARY.shown(results, arm, f"{PROBE} {each}", ablations.SEEDS, place)
                    for each in ("mean", *features)
                ),
            ]
            for arm in arms
            if place
        ]
        if any(cell != "-" for row in rows for cell in row[1:]):
            text += f"{name[0].upper()}{name[1:]}:\n\n" + table(["arm", "mean", *features], rows) + "\n"
    if not text:
        return ""
    return ABLATIONS.format(
        seeds=_listed(ablations.SEEDS),
        colour=ablations.COLOUR,
        images=World().images,
        artist=ARTIST,
        rows=text,
    )


def _runs(results: Results) -> str:
    header = ["arm", "place", "seed", *TITLES.values(), "training, s of one core"]
    return RUNS.format(rows=table(header, every_run(results, [f"{measure} mean" for measure in MEASURES])))


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
