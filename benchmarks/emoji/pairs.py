"""Pairs of one artist's drawings that differ in one thing, in MMVP-VLM's layout."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.emoji.shards import Sample, pixels_of

LEAST_PIXELS = 12  # of 32 x 32, that differ visibly
LEAST_ON_PEOPLE = 24  # where the difference is in a person's looks, which is less plain than a moved hand of a clock
LEAST_STEP = 24  # of 255, in one colour channel, to be visible
LEAST_PAIRS = 8  # of a type; fewer tell nothing and are left out


@dataclass(frozen=True)
class Pair:
    """Two drawings from one package, and what they differ in."""

    type: str
    first: Sample
    second: Sample


def find_pairs(
    samples: Iterable[Sample], differences: dict[str, list[tuple[str, str]]]
) -> tuple[list[Pair], dict[str, int]]:
    """All pairs of `differences` that a package draws both sides of, visibly differently; and how many of each type
    were left out because the difference is not visible.
    """
    drawn: dict[str, dict[str, Sample]] = {}
    for sample in samples:
        drawn.setdefault(sample.about["package"], {})[sample.caption] = sample
    pairs, unseen = [], dict.fromkeys(differences, 0)
    for kind, wanted in differences.items():
        found = []
        for by_caption in drawn.values():
            for first, second in wanted:
                if first in by_caption and second in by_caption:
                    pair = Pair(kind, by_caption[first], by_caption[second])
                    least = LEAST_ON_PEOPLE if kind in ("Gender", "Skin tone") else LEAST_PIXELS
                    if visible_pixels(pair.first.png, pair.second.png) < least:
                        unseen[kind] += 1
                    else:
                        found.append(pair)
        if len(found) >= LEAST_PAIRS:
            pairs += found
    return pairs, {kind: count for kind, count in unseen.items() if count}


def visible_pixels(first: bytes, second: bytes) -> int:
    """Pixels, of the pictures at 32 x 32, that differ by more than a step in some channel."""
    return int((np.abs(_small(first) - _small(second)).max(-1) >= LEAST_STEP).sum())


@lru_cache(maxsize=8192)
def _small(png: bytes) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels_of(png)).resize((32, 32), Image.Resampling.BOX), np.int16)


def write_pairs(directory: Path, pairs: Sequence[Pair]) -> None:
    """Questions.csv and `MLLM_VLM Images/TYPE/ID.png`; the statements are the captions."""
    rows: list[tuple[int, str, str]] = []
    for pair in pairs:
        folder = directory / "MLLM_VLM Images" / pair.type
        folder.mkdir(parents=True, exist_ok=True)
        for sample in (pair.first, pair.second):
            rows.append((len(rows) + 1, pair.type, sample.caption))
            (folder / f"{len(rows)}.png").write_bytes(sample.png)
    with open(directory / "Questions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Question ID", "Type", "Statement"), *rows])
