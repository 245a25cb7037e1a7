"""Image classification sets that `datasets` reads."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from eval.data.class_names import own_names
from eval.data.classification_set import ClassificationSet
from eval.data.hf_datasets import load_split, only_column, read_image, undecoded
from eval.data.images import Sample
from eval.data.prompts import read_templates, templates_in
from mcl_clip.errors import UserError
from mcl_clip.loading.class_folders import in_order, numbers_of


def open_hf_classification(
    name: str, split: str, image_column: str | None, label_column: str | None, revision: str | None
) -> ClassificationSet:
    """A table with an image column and a label column, of class labels, numbers or text.

    Without names these are the only image column, and `label` or the only column of class labels.
    """
    table, commit = load_split(name, split, revision)
    image_column = image_column or only_column(table, "Image", "image", "--image-column", name)
    label_column = label_column or only_column(table, "ClassLabel", "label", "--label-column", name)
    for flag, column in (("--image-column", image_column), ("--label-column", label_column)):
        if column not in table.column_names:
            raise UserError(f"{name} has no column {column} but {', '.join(table.column_names)}; name it with {flag}")
    keys, labels = _classes(table, label_column, name)
    images = undecoded(table, image_column, name)

    def samples() -> Iterator[Sample]:
        for row, label in enumerate(labels):
            yield Sample(partial(read_image, images, row, image_column), f"{name}[{row}]", label)

    path = Path(name)
    templates = templates_in(path) if path.is_dir() else read_templates("openai")
    return own_names(ClassificationSet(path.name, (), templates, len(labels), samples, commit, keys=tuple(keys)))


def _classes(table: Any, column: str, name: str) -> tuple[list[str], list[int]]:
    import datasets

    feature, values = table.features[column], list(table[column])
    if (missing := next((row for row, value in enumerate(values) if value is None or value == -1), None)) is not None:
        raise UserError(f"{name}[{missing}] has no {column}; choose a labelled split with --split")
    if isinstance(feature, datasets.ClassLabel):
        keys = in_order(feature.names) if numbers_of(feature.names) is not None else feature.names
        return keys, [keys.index(feature.names[value]) for value in values]
    if not all(isinstance(value, int | str) for value in values):
        raise UserError(f"the column {column} of {name} holds no class but {feature}; name one with --label-column")
    classes = sorted(set(values)) if values and isinstance(values[0], int) else in_order(list(set(values)))
    labels = {value: label for label, value in enumerate(classes)}
    return list(map(str, classes)), [labels[value] for value in values]
