"""Which names differ in one thing that can be seen: rules on Unicode's names, and a table for what has no rule."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

from benchmarks.emoji.attributes import HAIR, PEOPLE, TONES, Attributes
from benchmarks.emoji.names import Character

TYPES = ("Gender", "Skin tone", "Hair", "Direction", "Clock time", "Color", "State", "Count")
TABLE = Path(__file__).with_name("differences.tsv")

_COLORS = (
    ("red", "orange", "yellow", "green", "blue", "light blue", "purple", "pink", "brown", "black", "grey", "white"),
)
_DIRECTIONS = (
    ("left", "right", "up", "down"),
    ("up-left", "up-right", "down-left", "down-right"),
    ("leftwards", "rightwards"),
    ("upwards", "downwards"),
    ("left-facing", "right-facing"),
    ("increasing", "decreasing"),
)
_SEXES = (("man", "woman"), ("men", "women"), ("boy", "girl"), ("prince", "princess"), ("merman", "mermaid"))
_OTHER_THINGS_TOO = ("dancing",)  # the man and the woman are in different poses
_HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_LEAST_HOURS = 3  # less turns the short hand by too few pixels
_LEAST_TONES = 2  # neighbouring tones are hard to tell apart, for people too


def differences(characters: Iterable[Character], attributes: dict[str, Attributes]) -> dict[str, list[tuple[str, str]]]:
    """{type: pairs of names}, every pair once, in Unicode's order; `attributes` by name."""
    names = list(dict.fromkeys(each.name for each in characters))
    place = {name: number for number, name in enumerate(names)}
    people = [name for name in names if attributes[name].group == PEOPLE]
    posed_alike = [name for name in people if not set(_OTHER_THINGS_TOO) & set(attributes[name].head.split())]
    things = [name for name in names if attributes[name].group != PEOPLE]
    found = {
        "Gender": [*_swaps(posed_alike, _SEXES, place)],
        "Skin tone": [*_modified(people, "skin_tone", TONES, attributes, _LEAST_TONES)],
        "Hair": [*_modified(people, "hair", HAIR, attributes, 1)],
        "Direction": [*_swaps(names, _DIRECTIONS, place), *_facing(people, attributes)],
        "Clock time": [*_clocks(place)],
        "Color": [*_swaps(things, _COLORS, place)],
        "State": [],
        "Count": [*_members(names, place)],
    }
    for kind, first, second in csv.reader(TABLE.read_text().splitlines(), delimiter="\t"):
        if first in place and second in place:
            found[kind].append((first, second))
    return {kind: _in_order(found[kind], place) for kind in TYPES}


def _in_order(pairs: Iterable[tuple[str, str]], place: dict[str, int]) -> list[tuple[str, str]]:
    places = {(min(place[first], place[second]), max(place[first], place[second])) for first, second in pairs}
    names = list(place)
    return [(names[first], names[second]) for first, second in sorted(places)]


def _swaps(
    names: Sequence[str], groups: tuple[tuple[str, ...], ...], place: dict[str, int]
) -> Iterator[tuple[str, str]]:
    """Names that differ in one word, both words of one group."""
    for words in groups:
        for number, word in enumerate(words):
            whole = re.compile(rf"(?<![\w’-]){word}(?![\w’-])")
            for name in names:
                for found in whole.finditer(name):
                    for other in words[number + 1 :]:
                        changed = f"{name[: found.start()]}{other}{name[found.end() :]}"
                        if changed in place:
                            yield name, changed


def _modified(
    names: Iterable[str], field: str, values: tuple[str, ...], attributes: dict[str, Attributes], least: int
) -> Iterator[tuple[str, str]]:
    """Names that agree but for one modifier, `least` or more apart in the order of `values`."""
    alike: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        value = getattr(attributes[name], field)
        if value in values:
            said = f"{value} skin tone" if field == "skin_tone" else value
            head, _, tail = name.partition(": ")
            rest = [each for each in tail.split(", ") if each != said]
            alike.setdefault(f"{head}: {', '.join(rest)}", []).append((values.index(value), name))
    for group in alike.values():
        for (first, name), (second, other) in combinations(sorted(group), 2):
            if second - first >= least:
                yield name, other


def _facing(names: Iterable[str], attributes: dict[str, Attributes]) -> Iterator[tuple[str, str]]:
    """A person, drawn as facing left, and the same person who faces right."""
    known = set(names)
    for name in known:
        if attributes[name].facing == "right":
            head, _, tail = name.partition(": ")
            rest = ", ".join(each for each in tail.split(", ") if each != "facing right")
            other = f"{head}: {rest}" if rest else head
            if other in known:
                yield other, name


def _clocks(place: dict[str, int]) -> Iterator[tuple[str, str]]:
    for ending in (" o’clock", "-thirty"):
        for (first, hour), (second, other) in combinations(enumerate(_HOURS), 2):
            apart = min(second - first, 12 - second + first)
            if apart >= _LEAST_HOURS and hour + ending in place and other + ending in place:
                yield hour + ending, other + ending


def _members(names: Iterable[str], place: dict[str, int]) -> Iterator[tuple[str, str]]:
    """A family, and the same with one more of a kind that it has."""
    for name in names:
        head, _, tail = name.partition(": ")
        if head == "family":
            members = tail.split(", ")
            for number, member in enumerate(members):
                more = f"family: {', '.join([*members[:number], member, *members[number:]])}"
                if more in place and more != name:
                    yield name, more
