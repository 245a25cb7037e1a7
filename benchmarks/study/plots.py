"""Pictures of results, as SVG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.study.intervals import interval
from mcl_clip.artifacts import atomic_path


def draw_arms(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], colors: Mapping[str, str], heading: str
) -> None:
    """A line an arm, a panel a measure: the mean over seeds, its 95 % interval, and every seed.

    panels: by title, fractions by arm, a value a seed; of the arms that have a color.
    """
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    for panel, (title, values) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        arms = [arm for arm in values if arm in colors]
        for place, arm in enumerate(reversed(arms)):
            percents = [100 * value for value in values[arm]]
            found = interval(percents)
            panel.errorbar(found.mean, place, xerr=found.half, fmt="o", color=colors[arm], capsize=3)
            panel.plot(percents, [place] * len(percents), "|", color=colors[arm], alpha=0.6)
        panel.set_yticks(range(len(arms)), list(reversed(arms)))
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("%")
        panel.grid(alpha=0.25, axis="x")
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(heading, fontsize=11)
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "mcl_clip"}):
        figure.savefig(temporary, format="svg", metadata={"Date": None})
