"""Folders of images: captions in .txt files beside them, or made of the names of the folders."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mcl_clip.errors import UserError
from mcl_clip.packing.listing import Entry, Listing, list_rows

EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})


def open_folder(root: Path, template: str | None) -> Listing:
    """Images below `root`, in the order of their paths; hidden files and folders are left out.

    With a `template` the caption is that with the name of the folder in `root`, underscores as spaces, for its {}
    or {c}; else the .txt of the same stem. Raises `UserError` when there is no image, or no caption for any.
    """
    if template is not None and "{}" not in template and "{c}" not in template:
        raise UserError(f"--caption-template {template!r} holds neither {{}} nor {{c}} for the name of the class")
    entries = partial(_with_class, root, template) if template is not None else partial(_with_text, root)
    listing = list_rows("folder", entries, root)
    if not listing.total:
        raise UserError(f"{root} has no image in it (JPEG, PNG, WebP, GIF, BMP, TIFF or PPM)")
    if all(len(entry) == 1 for entry in entries()):
        beside = "no image in a folder of its class" if template else "no .txt beside any of its images"
        raise UserError(
            f"{root} has {beside}; for a folder per class give --caption-template 'a photo of a {{}}', for captions in "
            "files NAME.txt beside NAME.jpg leave it out"
        )
    return listing


def holds_images(root: Path) -> bool:
    """Whether there is an image below `root`; looks no further than the first."""
    return next(_images(root), None) is not None


def _with_text(root: Path) -> Iterator[Entry]:
    for path, names in _images(root):
        text = f"{os.path.splitext(path)[0]}.txt"
        yield {"image": path, "text": text} if os.path.basename(text) in names else {"image": path}


def _with_class(root: Path, template: str) -> Iterator[Entry]:
    for path, _ in _images(root):
        folder, _, rest = path.partition("/")
        name = folder.replace("_", " ")
        caption = template.replace("{c}", name).replace("{}", name)
        yield {"image": path, "captions": caption} if rest else {"image": path}


def _images(root: Path) -> Iterator[tuple[str, frozenset[str]]]:
    """(path from `root`, all names of its folder) of every image."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = frozenset(files)
        for name in sorted(files):
            if not name.startswith(".") and name.rpartition(".")[2].lower() in EXTENSIONS:
                yield os.path.relpath(os.path.join(folder, name), root), names
