"""SugarCrepe (Hsieh et al., arXiv 2306.14610), a table or a JSON a category."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eval.data.caption_files import inside
from eval.data.hf_datasets import load_split, read_image, undecoded
from eval.data.images import Sample, file_sample
from mcl_clip.errors import UserError

REPOSITORY = "HuggingFaceM4/SugarCrepe_{}"
CATEGORIES = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
COLUMNS = ("image", "tested_labels", "true_label")


@dataclass(frozen=True)
class Category:
    """One category: an image, its caption and a hard negative a sample; `samples` starts a new pass over the images.

    revision: the commit on the hub, empty for local data.
    """

    name: str
    captions: tuple[tuple[str, str], ...]
    samples: Callable[[], Iterator[Sample]]
    revision: str = ""


def open_category(name: str, directory: str | Path | None = None, images: str | Path | None = None) -> Category:
    """One category of the published set.

    `directory` holds it as its authors publish it, NAME.json (or data/NAME.json) whose file names start from the folder
    `images` of COCO's val2017 (by default val2017 or images in `directory`); or a folder a category (add_att or
    SugarCrepe_add_att), of parquet or saved to disk. Without it the hub is asked. Raises `UserError` when it cannot be
    had or has other columns.
    """
    place = REPOSITORY.format(name)
    if directory is not None:
        root = Path(directory)
        listed = next(
            (file for file in (root / f"{name}.json", root / "data" / f"{name}.json") if file.is_file()), None
        )
        if listed is not None:
            beside = next((root / each for each in ("val2017", "images") if (root / each).is_dir()), root)
            return _as_authors_publish(name, listed, Path(images) if images is not None else beside)
        folders = [root / folder for folder in (name, place.rpartition("/")[2])]
        found = next((folder for folder in folders if folder.is_dir()), None)
        if found is None:
            raise UserError(f"--data {directory} has neither {name}.json nor a folder {name}; fetch {place} into it")
        place = str(found)
    if images is not None:
        raise UserError("--images belongs to SugarCrepe's JSON as its authors publish it; name its folder with --data")
    return _from_datasets(name, place)


def _as_authors_publish(name: str, listed: Path, images: Path) -> Category:
    """{"0": {"filename": ..., "caption": ..., "negative_caption": ...}, ...} in the order of the file."""
    try:
        content = json.loads(listed.read_text(encoding="utf-8-sig"))
        rows = [(each["filename"], each["caption"], each["negative_caption"]) for each in content.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{listed} is not as SugarCrepe's authors publish it ({type(error).__name__}: {error})"
        ) from None
    if not rows:
        raise UserError(f"{listed} holds no samples")
    if odd := next((row for row in rows if not all(isinstance(text, str) for text in row)), None):
        raise UserError(f"{listed} holds {list(odd)}, where a file name and two captions are expected")
    files = [inside(images, file) for file, _, _ in rows]
    captions = tuple((caption, negative) for _, caption, negative in rows)

    def samples() -> Iterator[Sample]:
        return (file_sample(file, "\n".join(texts)) for file, texts in zip(files, captions, strict=True))

    return Category(name, captions, samples)


def _from_datasets(name: str, place: str) -> Category:
    rows, commit = load_split(place, "test", flag="SugarCrepe's")
    if missing := [column for column in COLUMNS if column not in rows.column_names]:
        raise UserError(f"{place} has no column {missing[0]} but {', '.join(rows.column_names)}")
    if not len(rows):
        raise UserError(f"{place} holds no samples")
    images = undecoded(rows, "image", place)
    captions = tuple(_captions(rows, row, name) for row in range(len(rows)))

    def samples() -> Iterator[Sample]:
        for row, texts in enumerate(captions):
            where = f"image {row} of SugarCrepe's {name}"
            yield Sample(partial(read_image, images, row, "image"), where, "\n".join(texts))

    return Category(name, captions, samples, commit)


def _captions(rows: Any, row: int, name: str) -> tuple[str, str]:
    """(caption, hard negative) of a row, told apart by `true_label`, whose type is a class label or text."""
    tested, true = rows["tested_labels"][row], rows["true_label"][row]
    feature = rows.features["true_label"]
    caption = feature.int2str(true) if hasattr(feature, "int2str") and true is not None else true
    negatives = [text for text in tested or () if text != caption]
    if len(negatives) != 1 or len(tested) != 2 or not all(isinstance(text, str) for text in tested):
        raise UserError(
            f"sample {row} of SugarCrepe's {name}: tested_labels must hold true_label and one other caption"
        )
    return caption, negatives[0]


def open_sugarcrepe(directory: str | Path | None = None, images: str | Path | None = None) -> list[Category]:
    """All categories."""
    return [open_category(name, directory, images) for name in CATEGORIES]
