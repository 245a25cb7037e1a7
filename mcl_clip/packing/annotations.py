"""Annotation files in JSON: COCO captions, Karpathy's splits of COCO and Flickr, and lists of records."""

import os
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from mcl_clip.artifacts import read_json
from mcl_clip.errors import UserError
from mcl_clip.packing.listing import Entry, Listing, list_rows
from mcl_clip.packing.rows import choose_columns


def open_annotations(
    path: Path, image_dir: str | None, split: str | None, image: str | None, caption: str | None
) -> Listing:
    """One row an image, with all its captions in the order of the file; the file is read into memory.

    COCO: `images` (id, file_name) and `annotations` (image_id, caption). Karpathy: `images` with `sentences` (raw)
    and a `split`. Else a list of records with the columns `image` and `caption`, a text or a list of them. Images
    lie in `image_dir`, by default beside the file, or for COCO in ../train2017.
    """
    content = read_json(path, "give COCO captions, whole")
    try:
        entries = _entries(path, content, split, image, caption)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no COCO captions file: {type(error).__name__} {error}") from None
    if not entries:
        raise UserError(f"{path} names no image" + (f" of --split {split}" if split else ""))
    base = Path(image_dir) if image_dir else _find(path, entries)
    return list_rows("annotations", partial(iter, entries), base)


def _entries(path: Path, content: Any, split: str | None, image: str | None, caption: str | None) -> list[Entry]:
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], dict) else {}
        columns = choose_columns(path, first, path.parent, image, caption)
        return [{"image": str(row[columns.image]), "captions": row.get(columns.caption)} for row in content]
    if "annotations" in content:
        captions: dict[Any, list[str]] = {}
        for annotation in content["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
        return [{"image": str(row["file_name"]), "captions": captions.get(row["id"], [])} for row in content["images"]]
    return [
        {
            "image": os.path.join(row.get("filepath", ""), row["filename"]),
            "captions": [sentence["raw"] for sentence in row["sentences"]],
        }
        for row in content["images"]
        if split is None or row["split"] == split
    ]


def _find(path: Path, entries: list[Entry]) -> Path:
    """Where the images are: beside the annotations, or as COCO unpacks them."""
    places = [path.parent, path.parent / "images", path.parent.parent / path.stem.split("_")[-1]]
    for place in places:
        if any((place / entry["image"]).is_file() for entry in islice(entries, 10)):
            return place
    raise UserError(f"the images of {path} are not beside it; give their folder with --image-dir")
