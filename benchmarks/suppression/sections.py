"""Sections of the page on what the arms know, fused or alone, and what they cost."""

from collections.abc import Sequence

import numpy as np

from benchmarks.study.intervals import interval
from benchmarks.study.models import Arm
from benchmarks.study.results import Results, Run
from benchmarks.study.settings import CONTROLS, FROM_BASE, HARD, MCL
from benchmarks.study.tables import percent, points, table
from benchmarks.study.units import BEST_ALONE, CONCAT, FITTED, FUSIONS, LAST_ALONE
from benchmarks.suppression.measures import MEASURES
from benchmarks.suppression.plots import TITLES
from benchmarks.suppression.settings import CHOSEN, LOCKED, ORACLE, ORACLE_SEEDS, SCRATCH, SEEDS, oracle_name
from benchmarks.suppression.summary import PLACE, arms_of, differences, towers, values_of
from demo.features import NAMES


def fusions(results: Results, hidden: str) -> str:
    """MCL under each fusion beside one stage."""
    arm = CHOSEN.arms()[MCL]
    measures = measures_with(hidden)
    rows = [
        [
            fusion,
            f"{1.0 if fusion in (BEST_ALONE, LAST_ALONE) else towers(arm):.1f}",
            *(percent(interval(values_of(results, arm, measure, fusion))) for measure in measures),
        ]
        for fusion in FUSIONS
    ]
    weights = [run.record["fit"]["weights"] for run in _runs_of(results, arm)]
    text = (
        "## One stage or all\n\nThe same models of MCL: all stages under each fusion, or one; towers run an image, "
        "percent. Weights are fitted, and the best stage is chosen, on the captions that were set apart; mean "
        f"weights {' : '.join(f'{weight:.2f}' for weight in np.mean(weights, 0))}.\n\n"
    )
    text += table(["", "towers", *(title(measure) for measure in measures)], rows)
    rows = [
        [
            f"{FITTED} minus {other}",
            *(points(interval(differences(results, arm, arm, measure, FITTED, other))) for measure in measures),
        ]
        for other in (CONCAT, BEST_ALONE)
    ]
    return text + "\nPaired by seed, points:\n\n" + table(["", *(title(measure) for measure in measures)], rows)


def every_arm(results: Results, hidden: str) -> str:
    """All arms under two fusions."""
    measures = measures_with(hidden)
    arms = [*arms_of(results).values(), CHOSEN.oracle()[ORACLE]]
    text = f"## Every arm\n\nPercent. The oracle ran on seeds {' and '.join(map(str, ORACLE_SEEDS))} only.\n"
    for fusion in (CONCAT, FITTED):
        rows = [
            [
                arm.name,
                f"{towers(arm):.1f}",
                *(percent(interval(values_of(results, arm, measure, fusion))) for measure in measures),
            ]
            for arm in arms
            if values_of(results, arm, measures[0])
        ]
        text += f"\nFused by `{fusion}`:\n\n" + table(["arm", "towers", *(title(each) for each in measures)], rows)
    return text


def secondary(results: Results, hidden: str) -> str:
    """Ways of MCL minus controls."""
    arms = arms_of(results)
    text = (
        "## Secondary comparisons\n\nPoints, paired by seed, fused by concatenation; each interval is its own and not "
        "simultaneous with any other.\n"
    )
    for method in (name for name in (MCL, FROM_BASE, SCRATCH) if name in arms):
        rows = [
            [
                control,
                *(
                    points(interval(differences(results, arms[method], arms[control], measure)))
                    for measure in measures_with(hidden)
                ),
            ]
            for control in (*CONTROLS, HARD)
            if control in arms
        ]
        header = [f"{method} minus", *(title(measure) for measure in measures_with(hidden))]
        text += "\n" + table(header, rows)
    return text


def features(results: Results) -> str:
    """Pair accuracy by feature, and whether each is within reach."""
    arms = arms_of(results)
    rows = [
        [name, *(percent(interval(values_of(results, arm, f"pairs {feature}"))) for feature in NAMES)]
        for name, arm in arms.items()
    ]
    text = "## Every feature, pair accuracy\n\n" + table(["arm", *NAMES], rows)
    oracle = CHOSEN.oracle()
    known = {name: values_of(results, oracle[oracle_name(name)], f"pairs {name}") for name in NAMES}
    if all(known.values()):
        text += (
            "\nIs every feature within reach? One share from stage 0 with negatives that agree in all features but the "
            "named one; pair accuracy of that model alone on that feature: "
            + ", ".join(f"{name} {percent(interval(values))}" for name, values in known.items())
            + ".\n"
        )
    return text


def cost(results: Results) -> str:
    """Seconds of one core."""
    arms = CHOSEN.arms()
    facts = [fact for run in _runs_of(results, arms[MCL]) for fact in run.record["facts"]]
    further = [fact for run in _runs_of(results, arms[MCL]) for fact in run.record["facts"][1:]]
    train, embed = (float(np.mean([fact[f"{name}_seconds"] for fact in facts])) for name in ("training", "embedding"))
    cluster = float(np.mean([fact["clustering_seconds"] for fact in further]))
    locked = [fact["training_seconds"] for run in _runs_of(results, arms[LOCKED]) for fact in run.record["facts"][1:]]
    spared = f" ({np.mean(locked):.0f} s with text and half of the image tower locked)" if locked else ""
    return (
        f"## Cost\n\nA share took {train:.0f} s of one core{spared}, embedding the training set {embed:.1f} "
        f"s and the k-means of all stages before {cluster:.1f} s; these two are not counted as compute.\n"
    )


def _runs_of(results: Results, arm: Arm) -> Sequence[Run]:
    return [
        run for (place, seed, key), run in results.runs.items() if (place, key) == (PLACE, arm.key) and seed in SEEDS
    ]


def measures_with(hidden: str) -> list[str]:
    """Every measure's mean and that of the feature that stage 0 suppressed."""
    return [f"{measure} {feature}" for measure in MEASURES for feature in ("mean", hidden)]


def title(measure: str) -> str:
    """Of a column."""
    name, _, feature = measure.partition(" ")
    return f"{TITLES[name]}, {feature}"
