"""The report's pictures, as self-contained strings for an <img>: SVG for lines and bars, JPEG for montages."""

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

COLORS = ("#9aa5b1", "#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2")
FUSED = "#111827"


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    ylabel: str,
    chance: float | None = None,
) -> str:
    """Grouped bars, a group a feature and a bar a model; values are fractions, drawn in percent."""
    figure = Figure(figsize=(max(8.4, 0.32 * len(groups) * (len(series) + 1.5)), 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(series)
    for number, (name, values) in enumerate(series.items()):
        places = [place - 0.4 + (number + 0.5) * width for place in range(len(groups))]
        axes.bar(places, [100 * value for value in values], width * 0.92, label=name, color=color(name, number))
    if chance is not None:
        axes.axhline(100 * chance, color="#666", linewidth=1, linestyle="--", label="chance")
    axes.set_xticks(range(len(groups)), groups, rotation=20, ha="right")
    axes.set_ylabel(ylabel)
    axes.set_ylim(0, 105)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(6, len(series) + 1), frameon=False)
    return svg(figure)


def lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str) -> str:
    """Curves (x, y) by name; the y axis is logarithmic where they span more than a decade."""
    figure = Figure(figsize=(8.4, 3.2), layout="constrained")
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, label=name, color=color(name, number), linewidth=1.6)
    values = [value for _, y in curves.values() for value in y]
    if max(values) > 10 * min(values) > 0:
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return svg(figure)


def color(name: str, number: int) -> str:
    """Stages in colours, the fused model in black."""
    return FUSED if name == "fused" else COLORS[number % len(COLORS)]


def svg(figure: Figure) -> str:
    """The figure as a data URI; the same figure gives the same bytes."""
    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "mcl_clip", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()


def montage(rows: Sequence[Sequence[bytes]], side: int = 48) -> str:
    """Rows of encoded images as a data URI; what does not open is left grey."""
    sheet = Image.new("RGB", (side * max([1, *map(len, rows)]), side * len(rows)), (225, 225, 225))
    for row, column, data in (
        (row, column, data) for row, images in enumerate(rows) for column, data in enumerate(images)
    ):
        try:
            with Image.open(io.BytesIO(data)) as image:
                small = image.convert("RGB").resize((side - 2, side - 2), Image.Resampling.BICUBIC)
        except OSError:
            continue
        sheet.paste(small, (column * side + 1, row * side + 1))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
