"""The study's pictures, as SVG files."""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.study.intervals import interval
from benchmarks.study.results import Results
from benchmarks.study.settings import BASE, CONTROLS, FROM_BASE, HARD, MCL
from benchmarks.suppression.measures import MEASURES
from benchmarks.suppression.settings import SCRATCH
from benchmarks.suppression.summary import arms_of, values_of
from mcl_clip.artifacts import atomic_path

TITLES = {"pairs": "pair accuracy", "zero_shot": "zero-shot accuracy", "probe": "linear probe"}
COLORS = (
    {BASE: "#9aa5b1"}
    | dict.fromkeys((*CONTROLS, HARD), "#4c78a8")
    | dict.fromkeys((MCL, FROM_BASE, SCRATCH), "#e45756")
)


def draw_arms(path: Path, results: Results, feature: str) -> None:
    """A line an arm, a panel a measure: the mean over seeds, its 95 % interval, and every seed."""
    arms = {name: arm for name, arm in arms_of(results).items() if name in COLORS}
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for panel, measure in zip(panels, MEASURES, strict=True):
        for place, arm in enumerate(reversed(arms)):
            values = [100 * value for value in values_of(results, arms[arm], f"{measure} {feature}")]
            found = interval(values)
            panel.errorbar(found.mean, place, xerr=found.half, fmt="o", color=COLORS[arm], capsize=3)
            panel.plot(values, [place] * len(values), "|", color=COLORS[arm], alpha=0.6)
        panel.set_yticks(range(len(arms)), list(reversed(arms)))
        panel.set_title(TITLES[measure], fontsize=10)
        panel.set_xlabel("%")
        panel.grid(alpha=0.25, axis="x")
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        "mean of all features" if feature == "mean" else f"{feature}, which stage 0 suppressed", fontsize=11
    )
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "mcl_clip"}):
        figure.savefig(temporary, format="svg", metadata={"Date": None})
