"""SugarCrepe as published (Hsieh et al., arXiv 2306.14610): a table a category."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eval.data.hf_datasets import load_split, read_image, undecoded
from eval.data.images import Sample
from mcl_clip.errors import UserError

REPOSITORY = "HuggingFaceM4/SugarCrepe_{}"
CATEGORIES = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
COLUMNS = ("image", "tested_labels", "true_label")


@dataclass(frozen=True)
class Category:
    """One category: a table of the published columns with encoded images, and its commit on the hub, if any."""

    name: str
    table: Any
    revision: str = ""

    def samples(self) -> Iterator[Sample]:
        """The images."""
        for row in range(len(self.table)):
            where = f"image {row} of SugarCrepe's {self.name}"
            yield Sample(partial(read_image, self.table, row, "image"), where, "\n".join(self.captions(row)))

    def captions(self, row: int) -> tuple[str, str]:
        """(caption, hard negative) of a row, told apart by `true_label`, whose type is a class label or text."""
        tested, true = self.table["tested_labels"][row], self.table["true_label"][row]
        feature = self.table.features["true_label"]
        caption = feature.int2str(true) if hasattr(feature, "int2str") else true
        negatives = [text for text in tested if text != caption]
        if len(tested) != 2 or len(negatives) != 1:
            raise UserError(
                f"sample {row} of SugarCrepe's {self.name}: tested_labels must hold true_label and one other caption"
            )
        return caption, negatives[0]


def open_category(name: str, directory: str | Path | None = None) -> Category:
    """One category of the published set.

    `directory` holds a folder a category (add_att or SugarCrepe_add_att), of parquet or saved to disk; without it the
    hub is asked. Raises `UserError` when it cannot be had or has other columns.
    """
    place = REPOSITORY.format(name)
    if directory is not None:
        folders = [Path(directory) / folder for folder in (name, place.rpartition("/")[2])]
        found = next((folder for folder in folders if folder.is_dir()), None)
        if found is None:
            raise UserError(f"--data {directory} has no folder {name}; fetch {place} from the hub into it")
        place = str(found)
    table, commit = load_split(place, "test", flag="SugarCrepe's")
    if missing := [column for column in COLUMNS if column not in table.column_names]:
        raise UserError(f"{place} has no column {missing[0]} but {', '.join(table.column_names)}")
    if not len(table):
        raise UserError(f"{place} holds no samples")
    return Category(name, undecoded(table, "image", place), commit)


def open_sugarcrepe(directory: str | Path | None = None) -> list[Category]:
    """All categories."""
    return [open_category(name, directory) for name in CATEGORIES]
