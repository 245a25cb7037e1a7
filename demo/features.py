"""The independent features of the demo's images, their words, and the MMVP pattern that each stands for.

After Trifeature (Hermann & Lampinen 2020, arXiv 2006.12433), with more features than its three. An image is a
row of value indices, one a feature, in the order of `FEATURES`; every combination is equally likely.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Feature:
    """`phrases[i]` names value i alone, as a noun phrase: what zero-shot prompts and pair statements say."""

    name: str
    pattern: str
    values: tuple[str, ...]
    phrases: tuple[str, ...]


def _feature(name: str, pattern: str, phrase: str, *values: str) -> Feature:
    return Feature(name, pattern, values, tuple(phrase.format(value) for value in values))


FEATURES: tuple[Feature, ...] = (
    _feature("color", "Color", "a {} object", "red", "orange", "yellow", "green", "blue", "purple"),
    _feature("background", "Presence", "a {} background", "black", "gray", "white", "brown"),
    _feature("position", "Spatial", "an object at the {}", "top", "bottom", "left", "right"),
    _feature("size", "Camera Perspective", "a {} object", "small", "large"),
    _feature("shape", "Structural Character", "a {}", "triangle", "heart", "square", "cross", "horseshoe"),
    _feature("texture", "State", "a {} object", "plain", "striped", "dotted", "checkered"),
)
NAMES = tuple(feature.name for feature in FEATURES)
COUNTS = np.array([len(feature.values) for feature in FEATURES])
