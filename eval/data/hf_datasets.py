"""Tables that `datasets` reads: hub ids, folders of parquet or images with metadata, data saved to disk."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from eval.data.classification_set import ClassificationSet
from eval.data.hub import gated, hub_commit, said_once
from eval.data.images import Sample
from eval.data.prompts import read_templates, readable, templates_in
from mcl_clip.errors import UserError

SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
PATTERNS = tuple(f"{folder}{name}" for folder in ("", "*/") for name in ("*.parquet", "metadata.csv", "metadata.jsonl"))


def is_datasets_folder(path: Path) -> bool:
    """Whether `datasets` reads the folder: saved to disk, parquet, or an image folder with metadata."""
    return any((path / mark).is_file() for mark in SAVED) or any(
        next(path.glob(pattern), None) is not None for pattern in PATTERNS
    )


def load_split(name: str, split: str, revision: str | None = None, flag: str = "--dataset") -> tuple[Any, str]:
    """(table, commit of the hub) that `name` stands for; the commit is empty for local data and without a network.

    Raises `UserError` with the mend when it cannot be had.
    """
    import datasets

    path = Path(name)
    try:
        if any((path / mark).is_file() for mark in SAVED):
            loaded = datasets.load_from_disk(name)
            return (loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded), ""
        if path.exists():
            return datasets.load_dataset(name, split=split), ""
        with said_once():
            commit = hub_commit(name, revision)
            return datasets.load_dataset(name, split=split, revision=commit or revision), commit
    except Exception as error:
        raise UserError(f"{flag} {name} (split {split}) {_failure(error, name)}") from None


def _failure(error: Exception, name: str) -> str:
    from huggingface_hub.errors import GatedRepoError

    reason = " ".join(str(error).split())[:200] or type(error).__name__
    chain = [error, error.__cause__, error.__context__]
    if any(isinstance(each, GatedRepoError) for each in chain) or "gated" in reason:
        return gated(name)
    mend = ""
    if isinstance(error, KeyError) or "split" in reason.lower():
        mend = "; name one of its splits with --split"
    elif not Path(name).exists():
        mend = "; check the name and the network, or fetch it elsewhere and give its folder"
    return f"cannot be loaded: {reason.rstrip('.')}{mend}"


def open_hf_classification(
    name: str, split: str, image_column: str | None, label_column: str | None, revision: str | None
) -> ClassificationSet:
    """A table with an image column and a label column, of class labels, numbers or text.

    Without names these are the only image column, and `label` or the only column of class labels.
    """
    table, commit = load_split(name, split, revision)
    image_column = image_column or _only(table, "Image", "image", "--image-column", name)
    label_column = label_column or _only(table, "ClassLabel", "label", "--label-column", name)
    for flag, column in (("--image-column", image_column), ("--label-column", label_column)):
        if column not in table.column_names:
            raise UserError(f"{name} has no column {column} but {', '.join(table.column_names)}; name it with {flag}")
    names, labels = _classes(table, label_column, name)
    images = undecoded(table, image_column, name)

    def samples() -> Iterator[Sample]:
        for row, label in enumerate(labels):
            yield Sample(partial(read_image, images, row, image_column), f"{name}[{row}]", label)

    path = Path(name)
    templates = templates_in(path) if path.is_dir() else read_templates("openai")
    return ClassificationSet(path.name, readable(names), templates, len(labels), samples, commit)


def undecoded(table: Any, column: str, name: str) -> Any:
    """The table with images as they are stored; `UserError` when the column holds none."""
    import datasets

    feature = table.features[column]
    stored = isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in ("string", "large_string")
    if not stored and not (isinstance(feature, Mapping) and {"bytes", "path"} <= set(feature)):
        raise UserError(f"the column {column} of {name} holds no images but {feature}; name it with --image-column")
    return table.cast_column(column, datasets.Image(decode=False))


def read_image(table: Any, row: int, column: str) -> bytes:
    """Encoded bytes of one image of an `undecoded` table; `OSError` when there are none."""
    stored = table[row][column] or {}
    if stored.get("bytes") is not None:
        return stored["bytes"]
    if not stored.get("path"):
        raise FileNotFoundError(2, "the table holds neither its bytes nor its path")
    return Path(stored["path"]).read_bytes()


def _only(table: Any, kind: str, default: str, flag: str, name: str) -> str:
    """`default` if there is such a column, else the only one of the kind."""
    found = [column for column, feature in table.features.items() if type(feature).__name__ == kind]
    if default in table.column_names:
        return default
    if len(found) == 1:
        return found[0]
    raise UserError(f"{name} has no column {default} but {', '.join(table.column_names)}; name one with {flag}")


def _classes(table: Any, column: str, name: str) -> tuple[list[str], list[int]]:
    import datasets

    feature, values = table.features[column], list(table[column])
    if (missing := next((row for row, value in enumerate(values) if value is None or value == -1), None)) is not None:
        raise UserError(f"{name}[{missing}] has no {column}; choose a labelled split with --split")
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names), values
    if not all(isinstance(value, int | str) for value in values):
        raise UserError(f"the column {column} of {name} holds no class but {feature}; name one with --label-column")
    numbers = {value: number for number, value in enumerate(sorted(set(values)))}
    return list(map(str, numbers)), [numbers[value] for value in values]
