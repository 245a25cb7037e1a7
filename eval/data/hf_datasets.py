"""Tables that `datasets` reads: hub ids, folders of parquet or images with metadata, data saved to disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.data.hub import gated, hub_commit, said_once
from mcl_clip.errors import UserError
from mcl_clip.loading.class_folders import is_hidden

SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
PATTERNS = tuple(f"{folder}{name}" for folder in ("", "*/") for name in ("*.parquet", "metadata.csv", "metadata.jsonl"))


def is_datasets_folder(path: Path) -> bool:
    """Whether `datasets` reads the folder: saved to disk, parquet, or an image folder with metadata."""
    return any((path / mark).is_file() for mark in SAVED) or any(
        not is_hidden(found.name) and not is_hidden(found.parent.name)
        for pattern in PATTERNS
        for found in path.glob(pattern)
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


def load_local(place: Path, split: str, flag: str) -> Any:
    """The table of a .parquet file or a folder, of which it is the split or the only one. `UserError` as above."""
    import datasets

    try:
        if place.is_file():
            return datasets.Dataset.from_parquet(str(place))
        if any((place / mark).is_file() for mark in SAVED):
            loaded = datasets.load_from_disk(str(place))
        else:
            loaded = datasets.load_dataset(str(place))
    except Exception as error:
        raise UserError(f"{flag} {place} {_failure(error, str(place))}") from None
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if split not in loaded and len(loaded) > 1:
        raise UserError(f"{flag} {place} has no split {split} but {', '.join(loaded)}; name the folder of one")
    return loaded[split] if split in loaded else next(iter(loaded.values()))


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


def refuse_flags(name: str, kind: str, **flags: str | None) -> None:
    """`UserError` where a flag is given that says nothing of a set of this kind."""
    if given := next((flag for flag, value in flags.items() if value), None):
        raise UserError(f"--{given.replace('_', '-')} says nothing of {name}, {kind}; leave it out")


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


def only_column(table: Any, kind: str, default: str, flag: str, name: str) -> str:
    """`default` if there is such a column, else the only one of the kind."""
    found = [column for column, feature in table.features.items() if type(feature).__name__ == kind]
    if default in table.column_names:
        return default
    if len(found) == 1:
        return found[0]
    raise UserError(f"{name} has no column {default} but {', '.join(table.column_names)}; name one with {flag}")
