"""What the page asks of the results: values over the study's seeds, and differences paired by seed."""

from typing import Any

import numpy as np

from benchmarks.images.measures import MEASURES, PROBE
from benchmarks.images.settings import CHOSEN, SEEDS
from benchmarks.images.trifeature import FEATURES
from benchmarks.study.intervals import Interval, holm, within_blocks
from benchmarks.study.models import Arm
from benchmarks.study.results import Results
from benchmarks.study.settings import BASE, CONTROLS, MCL
from benchmarks.study.units import CONCAT

PLACE = "trifeature"


def values_of(results: Results, arm: Arm, measure: str, fusion: str = CONCAT) -> list[float]:
    """One fraction a seed of the study; a single model is its own fusion."""
    found = results.scores(arm, PLACE, measure, fusion if len(arm.models) > 1 else CONCAT)
    return [value for seed, value in found.items() if seed in SEEDS]


def differences(results: Results, arm: Arm, other: Arm, measure: str) -> list[float]:
    """As of `Results.differences`, on the seeds of the study, concatenated."""
    return [value for seed, value in results.differences(arm, other, PLACE, measure).items() if seed in SEEDS]


def suppressed(results: Results) -> str:
    """The feature of which the probe of stage 0 reads least, over all seeds."""
    return min(FEATURES, key=lambda name: np.mean(values_of(results, CHOSEN.arms()[BASE], f"{PROBE} {name}")))


def primary(results: Results) -> dict[tuple[str, str], tuple[Interval, list[float]]]:
    """{(feature or "mean", control): MCL minus the control, simultaneously under Holm, and each seed's difference}."""
    arms = CHOSEN.arms()
    gaps = {
        (feature, name): differences(results, arms[MCL], arms[name], f"{PROBE} {feature}")
        for feature in ("mean", suppressed(results))
        for name in CONTROLS
    }
    found = holm({" ".join(key): within_blocks([gap]) for key, gap in gaps.items()})
    return {key: (found[" ".join(key)], gap) for key, gap in gaps.items()}


def finished(results: Results) -> bool:
    """Whether two seeds or more have all arms of the primary comparisons, so that there are intervals."""
    arms = CHOSEN.arms()
    return min(len(values_of(results, arms[name], f"{PROBE} mean")) for name in (BASE, *CONTROLS, MCL)) > 1


def arms_of(results: Results) -> dict[str, Arm]:
    """Arms that have run on seeds of the study."""
    return {name: arm for name, arm in CHOSEN.arms().items() if values_of(results, arm, f"{PROBE} mean")}


def headline(results: Results) -> dict[str, Any]:
    """The study in one flat object."""
    hidden = suppressed(results)
    found: dict[str, Any] = {"seeds": len(SEEDS), "suppressed": hidden}
    for (feature, control), (difference, _) in primary(results).items():
        found[f"{MCL} minus {control} | {PROBE} {feature}"] = difference.verdict
    for name, arm in arms_of(results).items():
        for measure in MEASURES:
            for feature in ("mean", hidden):
                found[f"{name} | {measure} | {feature}"] = round(
                    float(np.mean(values_of(results, arm, f"{measure} {feature}"))), 4
                )
    return found
