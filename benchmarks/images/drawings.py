"""Emoji with what their names say as labels: one artist is scored, drawings of the others are trained on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.emoji.attributes import TONES
from benchmarks.emoji.data import ARTIST, drawn_packages, shard_paths
from benchmarks.emoji.shards import Sample, in_memory, read_shards
from benchmarks.emoji.world import training_packages
from benchmarks.images.world import UNKNOWN, Labelled, World
from mcl_clip import seeds

TRAIN, PROBE, TEST = range(3)
RARE = 0.5  # of the drawings that a probe is fitted on or scored on: with hair or a direction, as far as there are any
ATTRIBUTES = ("skin tone", "hair", "gender", "direction", "group")


def drawings_world(data: Path, artist: str, images: int, seed: int) -> World:
    """`images` drawings of other artists to train on, drawn at random.

    Classifiers are fitted on as many of them, and scored on as many of `artist`'s, up to a share of RARE with rare
    attributes.
    """
    others = read_shards(shard_paths(data, training_packages(data, artist)))
    own = read_shards(shard_paths(data, [package for package in drawn_packages(data) if ARTIST[package] == artist]))
    turned = {each.about["head"] for each in (*others, *own) if each.about["facing"]}
    values = [[_value(name, each, turned) for name in ATTRIBUTES] for each in (*others, *own)]
    numbers = {
        name: {value: number for number, value in enumerate(sorted({row[column] for row in values if row[column]}))}
        for column, name in enumerate(ATTRIBUTES)
    }

    def labelled(samples: Sequence[Sample]) -> Labelled:
        labels = {
            name: np.array([numbers[name].get(_value(name, each, turned), UNKNOWN) for each in samples], np.int64)
            for name in ATTRIBUTES
        }
        return Labelled(torch.from_numpy(in_memory(samples).images).permute(0, 3, 1, 2).contiguous(), labels)

    def is_rare(sample: Sample) -> bool:
        return any(_value(name, sample, turned) for name in ("hair", "direction"))

    return World(
        train=labelled(_drawn(others, images, (seed, TRAIN))).images,
        probe=labelled(_drawn(others, images, (seed, PROBE), is_rare)),
        test=labelled(_drawn(own, images, (seed, TEST), is_rare)),
    )


def _value(name: str, sample: Sample, turned: set[str]) -> str:
    """Of an attribute; empty where the name does not say, or where all drawings of a head face one way."""
    about: dict[str, Any] = sample.about
    if name == "skin tone":
        return about["skin_tone"] if about["skin_tone"] in TONES else ""
    if name == "direction":
        return (about["facing"] or "left") if about["head"] in turned else ""
    return about[name] or ""


def _drawn(
    samples: Sequence[Sample], count: int, entropy: tuple[int, ...], is_rare: Callable[[Sample], bool] | None = None
) -> list[Sample]:
    """Without repeats; where `is_rare` is given, up to RARE of `count` are rare and the rest is drawn of all others."""
    order = seeds.generator(*entropy).permutation(len(samples)).tolist()
    if is_rare is not None:
        rare = [row for row in order if is_rare(samples[row])][: round(RARE * count)]
        order = [*rare, *(row for row in order if not is_rare(samples[row]))]
    return [samples[row] for row in order[:count]]
