"""A folder per class: which entries are images, and in which order classes stand."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from mcl_clip.errors import UserError

BESIDE_DATA = {"__MACOSX", "@eaDir"}  # what macOS and Synology put beside the files


@dataclass(frozen=True)
class Listing:
    """Files below a folder: its images in order, entries that are hidden, and files of other types."""

    images: list[Path]
    hidden: list[Path]
    others: list[Path]


def is_hidden(name: str) -> bool:
    """Whether an entry of this name is none of the data: .ipynb_checkpoints, ._1.jpg, __MACOSX."""
    return name.startswith(".") or name in BESIDE_DATA


def visible_folders(root: Path) -> list[Path]:
    """The folders in `root` that are not hidden, in the order of their names as text."""
    return sorted(each for each in root.iterdir() if each.is_dir() and not is_hidden(each.name))


def list_images(folder: Path) -> Listing:
    """All below `folder`, at any depth; images are known by torchvision's IMG_EXTENSIONS."""
    found = Listing([], [], [])
    for directory, folders, files in os.walk(folder):
        found.hidden.extend(Path(directory, name) for name in (*folders, *files) if is_hidden(name))
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in files:
            if not is_hidden(name):
                kind = found.images if name.lower().endswith(IMG_EXTENSIONS) else found.others
                kind.append(Path(directory, name))
    return Listing(*(sorted(each) for each in (found.images, found.hidden, found.others)))


def numbers_of(names: Sequence[str]) -> list[int] | None:
    """The numbers that all classes are called by (0, 007, or class_0 with one prefix); None where one is not.

    Raises `UserError` when two classes have the same number.
    """
    parts = [re.fullmatch(r"(\D*)([0-9]+)", name) for name in names]
    if not all(parts) or len({part[1].lower() for part in parts if part}) != 1:
        return None
    numbers = [int(part[2]) for part in parts if part]
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        same = [name for name, number in zip(names, numbers, strict=True) if number == twice]
        raise UserError(f"the classes {' and '.join(same)} are the same number; rename one")
    return numbers


def in_order(names: Sequence[str]) -> list[str]:
    """Classes by their numbers where all have one, else by their names as text."""
    numbers = numbers_of(names)
    if numbers is None:
        return sorted(names)
    return [name for _, name in sorted(zip(numbers, names, strict=True))]
