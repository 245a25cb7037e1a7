"""The study's pictures."""

from pathlib import Path

from benchmarks.study import plots
from benchmarks.study.results import Results
from benchmarks.study.settings import BASE, CONTROLS, FROM_BASE, HARD, MCL
from benchmarks.suppression.measures import MEASURES
from benchmarks.suppression.settings import SCRATCH
from benchmarks.suppression.summary import arms_of, values_of

TITLES = {"pairs": "pair accuracy", "zero_shot": "zero-shot accuracy", "probe": "linear probe"}
COLORS = (
    {BASE: "#9aa5b1"}
    | dict.fromkeys((*CONTROLS, HARD), "#4c78a8")
    | dict.fromkeys((MCL, FROM_BASE, SCRATCH), "#e45756")
)


def draw_arms(path: Path, results: Results, feature: str) -> None:
    """A panel a measure of the feature, or of the "mean" of all."""
    panels = {
        TITLES[measure]: {
            name: values_of(results, arm, f"{measure} {feature}") for name, arm in arms_of(results).items()
        }
        for measure in MEASURES
    }
    heading = "mean of all features" if feature == "mean" else f"{feature}, which stage 0 suppressed"
    plots.draw_arms(path, panels, COLORS, heading)
