"""Sections of the page on what the arms know and what they cost."""

import numpy as np

from benchmarks.images.measures import KNN, MEASURES, PROBE, PROJECTED
from benchmarks.images.settings import CHOSEN, IFM, SEEDS
from benchmarks.images.summary import PLACE, arms_of, differences, values_of
from benchmarks.images.trifeature import FEATURES
from benchmarks.study.intervals import interval
from benchmarks.study.results import Results
from benchmarks.study.settings import CONTROLS, FROM_BASE, MCL
from benchmarks.study.tables import percent, points, table
from benchmarks.study.units import LAST_ALONE

TITLES = {PROBE: "linear probe", KNN: "20 neighbours", PROJECTED: "linear probe of projections"}


def every_arm(results: Results, hidden: str) -> str:
    """All arms concatenated, and MCL's last stage alone."""
    measures = [f"{PROBE} {feature}" for feature in ("mean", *FEATURES)]
    measures += [f"{measure} {feature}" for measure in (KNN, PROJECTED) for feature in ("mean", hidden)]
    arms = arms_of(results)
    rows = [
        [name, *(percent(interval(values_of(results, arm, measure))) for measure in measures)]
        for name, arm in arms.items()
    ]
    alone = (percent(interval(values_of(results, arms[MCL], measure, LAST_ALONE))) for measure in measures)
    rows.append([f"{MCL}, {LAST_ALONE}", *alone])
    return "## Every arm\n\nPercent.\n\n" + table(["arm", *map(_title, measures)], rows)


def secondary(results: Results, hidden: str) -> str:
    """Ways of MCL minus the other arms."""
    arms = arms_of(results)
    measures = [f"{measure} {feature}" for measure in MEASURES for feature in ("mean", hidden)]
    text = (
        "## Secondary comparisons\n\nPoints, paired by seed; each interval is its own and not simultaneous with any "
        "other.\n"
    )
    for method in (name for name in (MCL, FROM_BASE) if name in arms):
        rows = [
            [
                other,
                *(points(interval(differences(results, arms[method], arms[other], measure))) for measure in measures),
            ]
            for other in (*CONTROLS, IFM)
            if other in arms
        ]
        text += "\n" + table([f"{method} minus", *map(_title, measures)], rows)
    return text


def cost(results: Results) -> str:
    """Seconds of one core."""
    records = [
        run.record
        for (place, seed, key), run in results.runs.items()
        if (place, key) == (PLACE, CHOSEN.arms()[MCL].key) and seed in SEEDS
    ]
    facts = [fact for record in records for fact in record["facts"]]
    further = [fact for record in records for fact in record["facts"][1:]]
    train, embed = (float(np.mean([fact[f"{name}_seconds"] for fact in facts])) for name in ("training", "embedding"))
    cluster = float(np.mean([fact["clustering_seconds"] for fact in further]))
    return (
        f"## Cost\n\nA share took {train:.0f} s of one core (models that see the same views share them), embedding the "
        f"training set {embed:.1f} s and the k-means of all stages before {cluster:.1f} s; these two are not counted "
        "as compute.\n"
    )


def _title(measure: str) -> str:
    name, _, feature = measure.partition(" ")
    return f"{TITLES[name]}, {feature}"
