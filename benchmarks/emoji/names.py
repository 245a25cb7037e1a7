"""Which Unicode character an icon draws, and what it is called."""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LEFT_OUT = ("extras-unicode", "component")  # symbols that are no emoji; bare skin tones and hair


@dataclass(frozen=True)
class Character:
    """A row of openmoji.csv: `name` is Unicode's (CLDR), `code` its code points without variation selectors,
    `order` its place in Unicode's order.
    """

    order: int
    code: str
    name: str
    emoji: str
    group: str
    subgroup: str
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class Icons:
    """An icon set in iconify's JSON: `data` is icons.json, `codes` {icon: code} of its chars.json."""

    package: str
    data: dict[str, Any]
    codes: dict[str, str]


def read_characters(table: bytes) -> list[Character]:
    """Characters of openmoji.csv, in Unicode's order."""
    rows = csv.DictReader(io.StringIO(table.decode("utf-8", "replace")))
    return [
        Character(
            order,
            plain_code(row["hexcode"]),
            row["annotation"].strip(),
            row["emoji"],
            row["group"],
            row["subgroups"],
            tuple(sorted({word.strip() for word in f"{row['tags']},{row['openmoji_tags']}".split(",")} - {""})),
        )
        for order, row in enumerate(sorted(rows, key=lambda row: int(row["order"] or 1 << 30)))
        if row["group"] not in LEFT_OUT
    ]


def read_icons(package: str, icons: bytes, chars: bytes) -> Icons:
    """From the bytes of icons.json and chars.json ({code: icon})."""
    return Icons(package, json.loads(icons), {icon: plain_code(code) for code, icon in json.loads(chars).items()})


def match(sets: Iterable[Icons], characters: Iterable[Character]) -> dict[str, dict[str, Character]]:
    """{package: {icon: character}} of all icons that are still drawn by their artist (not `hidden`).

    An icon is known by its package's own codes, else by its name: the character's in the same spelling, else what all
    other packages that have the name, as an icon or as another name of one, use it for.
    """
    sets, characters = list(sets), list(characters)
    by_code = {each.code: each for each in characters}
    by_spelling = {spelling(each.name): each for each in reversed(characters)}
    own = {each.package: {icon: by_code[code] for icon, code in each.codes.items() if code in by_code} for each in sets}
    elsewhere: dict[str, set[Character]] = defaultdict(set)
    for each in sets:
        for icon, character in own[each.package].items():
            elsewhere[icon].add(character)
        for alias, icon in _aliases(each):
            if meant := own[each.package].get(icon) or by_spelling.get(spelling(icon)):
                elsewhere[alias].add(meant)
    return {each.package: dict(_matches(each, own[each.package], by_spelling, elsewhere)) for each in sets}


def plain_code(code: str) -> str:
    """Code points in lower case, without leading zeros and variation selectors: `1F3F3-FE0F` is `1f3f3`."""
    return "-".join(point.lstrip("0") for point in code.lower().split("-") if point != "fe0f")


def spelling(name: str) -> str:
    """A name as icon sets write it: `woman: red hair` is `woman-red-hair`."""
    bare = re.sub(r"[:’'“”()!,.&]", "", name.lower().strip())
    return re.sub("^flag-for-(flag-)?", "flag-", re.sub(r"[\s-]+", "-", bare))


def _aliases(icons: Icons) -> list[tuple[str, str]]:
    """(other name, icon); those that turn or mirror the picture are not the same drawing."""
    aliases = icons.data.get("aliases", {})
    return [(alias, each["parent"]) for alias, each in aliases.items() if set(each) == {"parent"}]


def _matches(
    icons: Icons, own: dict[str, Character], by_spelling: dict[str, Character], elsewhere: dict[str, set[Character]]
) -> Iterable[tuple[str, Character]]:
    aliases = defaultdict(list)
    for alias, icon in _aliases(icons):
        aliases[icon].append(alias)
    for icon, each in icons.data["icons"].items():
        if each.get("hidden"):
            continue
        found = own.get(icon) or by_spelling.get(spelling(icon))
        for name in (icon, *aliases[icon]):
            if found is None and len(elsewhere[name]) == 1:
                (found,) = elsewhere[name]
        if found is not None:
            yield icon, found
