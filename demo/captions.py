"""Captions of generated images: varied wording, each feature mentioned with a probability of its own."""

from collections.abc import Mapping

import numpy as np

from demo.features import FEATURES, NAMES

# As people write them: the texture is left out more often than the rest.
MENTIONS = dict.fromkeys(NAMES, 0.9) | {"texture": 0.6}
OPENINGS = ("a photo of ", "an image of ", "")


def write_captions(values: np.ndarray, mention: Mapping[str, float], rng: np.random.Generator) -> list[str]:
    """One caption a row of value indices int [N, F]; `mention` maps every feature to its probability."""
    chance = np.array([mention[name] for name in NAMES])
    said = rng.random(values.shape) < chance
    order = rng.integers(len(ORDERS), size=len(values))
    opening = rng.integers(len(OPENINGS), size=len(values))
    captions = []
    for row in range(len(values)):
        words = {
            feature.name: feature.values[values[row, i]] if said[row, i] else "" for i, feature in enumerate(FEATURES)
        }
        captions.append(OPENINGS[opening[row]] + ORDERS[order[row]](words))
    return captions


def _object_first(words: dict[str, str]) -> str:
    return " ".join(filter(None, (_object(words, "size", "color", "texture"), _place(words), _ground(words))))


def _object_in_the_middle(words: dict[str, str]) -> str:
    return " ".join(filter(None, (_object(words, "texture", "size", "color"), _ground(words), _place(words))))


def _ground_first(words: dict[str, str]) -> str:
    ground = f"a {words['background']} background with" if words["background"] else ""
    return " ".join(filter(None, (ground, _object(words, "color", "texture", "size"), _place(words))))


def _object(words: dict[str, str], *adjectives: str) -> str:
    described = [words[name] for name in adjectives if words[name]] + [words["shape"] or "object"]
    article = "an" if described[0][0] in "aeiou" else "a"
    return f"{article} {' '.join(described)}"


def _place(words: dict[str, str]) -> str:
    return f"at the {words['position']}" if words["position"] else ""


def _ground(words: dict[str, str]) -> str:
    return f"on a {words['background']} background" if words["background"] else ""


ORDERS = (_object_first, _object_in_the_middle, _ground_first)
