"""docs/study/README.md, written from the results alone."""

from pathlib import Path

import numpy as np

from benchmarks.study.intervals import holm, within_blocks
from benchmarks.study.results import Results, every_run
from benchmarks.study.settings import CONTROLS, FROM_BASE, MCL, SNAPSHOTS
from benchmarks.study.tables import points, table
from benchmarks.suppression.ablations import ablations
from benchmarks.suppression.generated import Generated
from benchmarks.suppression.measures import MEASURES
from benchmarks.suppression.plots import TITLES, draw_arms
from benchmarks.suppression.sections import cost, every_arm, features, fusions, secondary
from benchmarks.suppression.settings import CHOOSING_SEEDS, CHOSEN, RATE_OF, SEEDS, World, tries
from benchmarks.suppression.students import one_tower
from benchmarks.suppression.summary import SUMMARY, differences, finished, headline, suppressed, values_of
from demo.features import NAMES
from mcl_clip.artifacts import atomic_path, write_json

INTRODUCTION = """# Does it work? MCL against controls of equal compute, in a generated world

Written by `python -m benchmarks.suppression report` from `units/`, one file an arm and seed; every number below is
measured. `make study` trains what is missing and writes this page again.

Images of 32 pixels with {count} independent features ({names}) and captions that name
them; a four-layer convolutional tower. {images:,} images, of which whole captions, a share of {fit_share:g}, are set
apart from every arm's training to fit weights on; {epochs} epochs a share of compute, batch {batch}, K = {clusters},
{shares} shares for every arm but stage 0. Images are held in memory and not augmented, so that no arm waits for a
loader; plan, loss, k-means, fusion and the fit are mcl_clip's own. Pair accuracy is MMVP's (chance 25 %), zero-shot
prompts name one feature alone, the linear probe is ridge regression on the embedding. Seeds {seeds} of data
and weights; intervals are Student's 95 % over seeds.

What was arranged: the world is made for this. Captions name texture less often than the rest ({hard:.0%} against
{mention:.0%}), and K was chosen, both on seeds from 100 on, so that stage 0 suppresses a feature and there is
something to win. Each arm's learning rate was chosen on such seeds too (below). MCL here starts every stage from
the one before; the published way starts from stage 0 and stands under *{from_base}*.
"""
PRIMARY = """## What came out

Primary: MCL, fused by concatenation, minus each control of equal compute: mean pair accuracy in points, paired by seed;
intervals are simultaneous under Holm's procedure over these four comparisons. All else on this page is secondary.

{rows}
Stage 0 suppressed **{hidden}** most. The comparisons are not independent findings: {hidden} alone makes {share:.0%}
of the gain of the mean over snapshots.
"""
RATES_TEXT = """## Choosing the rates

Every arm's own learning rate, of its further stages (of all of it for the long run and the ensemble): mean pair
accuracy, percent, the chosen one in bold; seeds: {seeds}. The relatives of MCL take its rate. At the edge of what was
tried: {edge}.

{rows}"""
ABLATIONS = """## Ablations

`python -m benchmarks.suppression ablate`: seed {seed} alone, fused by concatenation, pair accuracy (and the probe) in
percent: differences of a few points are noise.

{rows}"""
RUNS = """## Every run

Means over features, concatenated, percent; what each was made of stands in `units/`.

{rows}"""


def write_page(directory: Path, results: Results) -> None:
    """Write README.md, results.json and the plots from what stands in `directory`/units."""
    parts = [_introduction()]
    if finished(results):
        hidden = suppressed(results)
        for name, feature in (("mean", "mean"), ("suppressed", hidden)):
            draw_arms(directory / f"arms_{name}.svg", results, feature)
        parts += [
            _primary(results, hidden),
            "![Mean of all features, every arm](arms_mean.svg)\n",
            f"![{hidden}, every arm](arms_suppressed.svg)\n",
            fusions(results, hidden),
            one_tower(results, hidden),
            every_arm(results, hidden),
            secondary(results, hidden),
            features(results),
            cost(results),
        ]
        write_json(directory / "results.json", headline(results))
    else:
        parts.append("## What came out\n\nNot all runs are there yet; `make study` goes on.\n")
        if len(values_of(results, CHOSEN.arms()[MCL], "pairs mean")) > 1:
            hidden = suppressed(results)
            parts += [fusions(results, hidden), one_tower(results, hidden)]
    parts += [_rates(results), _ablations(results), _runs(results)]
    with atomic_path(directory / "README.md") as temporary:
        temporary.write_text("\n".join(part for part in parts if part).rstrip() + "\n", encoding="utf-8")


def _introduction() -> str:
    world = World()
    return INTRODUCTION.format(
        count=len(NAMES),
        names=", ".join(NAMES),
        images=world.images,
        fit_share=world.fit_share,
        epochs=CHOSEN.epochs,
        batch=CHOSEN.batch,
        clusters=CHOSEN.clusters,
        shares=CHOSEN.stages + 1,
        seeds=", ".join(map(str, SEEDS)),
        hard=world.mention_hard,
        mention=world.mention,
        from_base=FROM_BASE,
    )


def _primary(results: Results, hidden: str) -> str:
    arms = CHOSEN.arms()
    gaps = {name: differences(results, arms[MCL], arms[name], "pairs mean") for name in CONTROLS}
    found = holm({name: within_blocks([gap]) for name, gap in gaps.items()})
    rows = [
        [name, points(found[name]), found[name].verdict, *(f"{100 * gap:+.1f}" for gap in gaps[name])]
        for name in CONTROLS
    ]
    seeds = [f"seed {seed}" for seed in SEEDS[: len(gaps[SNAPSHOTS])]]
    hidden_gap = differences(results, arms[MCL], arms[SNAPSHOTS], f"pairs {hidden}")
    share = float(np.mean(hidden_gap) / len(NAMES) / np.mean(gaps[SNAPSHOTS]))
    return PRIMARY.format(hidden=hidden, rows=table(["MCL minus", "difference", "", *seeds], rows), share=share)


def _rates(results: Results) -> str:
    chosen = {name: getattr(CHOSEN, field) for name, field in RATE_OF.items()}
    rows, edge = SUMMARY.rates(results, tries(), chosen, CHOOSING_SEEDS)
    return RATES_TEXT.format(seeds=", ".join(map(str, CHOOSING_SEEDS)), edge=edge, rows=rows)


def _ablations(results: Results) -> str:
    rows = []
    hidden = suppressed(results) if finished(results) else NAMES[-1]
    for name, (shape, arms) in ablations().items():
        place = Generated(Path(), Path(), SEEDS[0], shape).name
        for arm in arms[1:]:
            values = [
                results.scores(each, place, measure).get(SEEDS[0])
                for each, measure in (
                    (arms[0], "pairs mean"),
                    (arm, "pairs mean"),
                    (arms[0], f"pairs {hidden}"),
                    (arm, f"pairs {hidden}"),
                    (arm, f"probe {hidden}"),
                )
            ]
            if None not in values:
                rows.append(
                    [f"{name}; {len(arm.models) - 1} further", *(f"{100 * (value or 0):.1f}" for value in values)]
                )
    if not rows:
        return ""
    header = ["changed", "stage 0, mean", "MCL, mean", f"stage 0, {hidden}", f"MCL, {hidden}", f"probe, {hidden}"]
    return ABLATIONS.format(seed=SEEDS[0], rows=table(header, rows))


def _runs(results: Results) -> str:
    header = ["arm", "world", "seed", *(TITLES[measure] for measure in MEASURES), "training, s of one core"]
    return RUNS.format(rows=table(header, every_run(results, [f"{measure} mean" for measure in MEASURES])))
