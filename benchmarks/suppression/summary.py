"""From scores of several seeds to means, intervals and paired differences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.study.intervals import Interval, interval
from benchmarks.suppression.measures import MEASURES
from demo.features import NAMES

CONTROLS = ("one long run", "ensemble", "snapshots, from the previous", "snapshots, from the base")
METHODS = ("MCL from the base", "MCL from the previous stage", "MCL from scratch")


def values_of(seeds: Sequence[dict[str, Any]], arm: str, measure: str, feature: str, fusion: str) -> list[float]:
    """One fraction a seed."""
    return [each["scores"][fusion][arm][measure][feature] for each in seeds]


def arms_of(seeds: Sequence[dict[str, Any]], fusion: str = "concat") -> list[str]:
    """Arms in the order of the study."""
    return list(seeds[0]["scores"][fusion])


def suppressed(seeds: Sequence[dict[str, Any]]) -> str:
    """The feature on which stage 0 has the lowest pair accuracy over all seeds."""
    return min(NAMES, key=lambda name: np.mean(values_of(seeds, "stage 0", "pairs", name, "concat")))


def differences(
    seeds: Sequence[dict[str, Any]], fusion: str, measure: str, feature: str
) -> dict[str, dict[str, Interval]]:
    """{method: {control: paired difference over seeds}}."""
    return {
        method: {
            control: interval(
                np.subtract(
                    values_of(seeds, method, measure, feature, fusion),
                    values_of(seeds, control, measure, feature, fusion),
                ).tolist()
            )
            for control in CONTROLS
        }
        for method in METHODS
    }


def learnable(seeds: Sequence[dict[str, Any]]) -> dict[str, Interval]:
    """Pair accuracy on each feature of the model whose negatives agree in all others."""
    return {name: interval(values_of(seeds, f"oracle, {name} alone", "pairs", name, "concat")) for name in NAMES}


def costs(seeds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean seconds of one core: a share of training, embedding and clustering the training set once, all of a seed."""
    facts = [model for each in seeds for name, model in each["models"].items() if name != "long"]
    trained = [model for each in seeds for model in each["models"].values()]
    return {
        "training_seconds_a_share": float(np.mean([each["training_seconds"] for each in facts])),
        "clustering_seconds": float(np.mean([each["clustering_seconds"] for each in facts])),
        "seconds_a_seed": sum(each["training_seconds"] + each["clustering_seconds"] for each in trained) / len(seeds),
    }


def headline(seeds: Sequence[dict[str, Any]], fusion: str = "concat") -> dict[str, Any]:
    """The study in one flat object."""
    hidden = suppressed(seeds)
    found: dict[str, Any] = {"seeds": len(seeds), "fusion": fusion, "suppressed": hidden, **costs(seeds)}
    for arm in ("stage 0", *CONTROLS, *METHODS):
        for measure in MEASURES:
            for feature in ("mean", hidden):
                found[f"{arm} | {measure} | {feature}"] = interval(values_of(seeds, arm, measure, feature, fusion)).mean
    return found
