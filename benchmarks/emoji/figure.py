"""A small picture of the data: one pair of every type from a few artists."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from benchmarks.emoji.differences import TYPES
from eval.data.mmvp import MMVPPair, read_pairs
from mcl_clip.artifacts import atomic_path

ARTISTS_SHOWN = ("noto", "twemoji", "fluent")  # their licences allow a picture that holds several artists' work
PLACE = 5 / 8  # of the pairs of a type: which one is shown


def draw_pairs(path: Path, data: Path, artists: Sequence[str] = ARTISTS_SHOWN) -> None:
    """A row an artist, a column a type."""
    figure = Figure(figsize=(1.5 * len(TYPES), 1.15 * len(artists) + 0.3), layout="constrained")
    axes = figure.subplots(len(artists), 2 * len(TYPES), squeeze=False)
    for row, artist in zip(axes, artists, strict=True):
        pairs = read_pairs(data / "artists" / artist / "pairs")
        for number, kind in enumerate(TYPES):
            found = [pair for pair in pairs if pair.type == kind]
            _show(row[2 * number : 2 * number + 2], found[int(len(found) * PLACE)] if found else None)
            if artist == artists[0]:
                row[2 * number].set_title(kind, fontsize=9, loc="left")
        row[0].set_ylabel(artist, fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80, metadata={"Software": None})


def _show(places: Sequence, pair: MMVPPair | None) -> None:
    for number, place in enumerate(places):
        place.set_xticks([])
        place.set_yticks([])
        place.spines[:].set_visible(False)
        if pair:
            place.imshow(Image.open(pair.images[number]).convert("RGB"))
