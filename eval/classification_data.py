"""Image classification sets: `datasets` (hub or local), a folder per class, or CLIP_benchmark's WebDataset layout."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import open_clip
from PIL import Image, UnidentifiedImageError

from mcl_clip.errors import UserError
from mcl_clip.shards.offsets import IMAGE_EXTENSIONS

Template = str
SUFFIXES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)


class Samples(Protocol):
    """Starts a new pass over (RGB image, label): samples `first`, `first + step`, ...; the others are not decoded."""

    def __call__(self, first: int = 0, step: int = 1) -> Iterator[tuple[Image.Image, int]]: ...


@dataclass(frozen=True)
class ClassificationSet:
    """Images with class numbers. A template holds the class name at `{}` or `{c}`."""

    name: str
    classnames: tuple[str, ...]
    templates: tuple[Template, ...]
    size: int
    samples: Samples
    revision: str = ""


def open_set(
    name: str,
    split: str = "test",
    *,
    templates: str | None = None,
    classnames: str | None = None,
    image_column: str = "image",
    label_column: str = "label",
) -> ClassificationSet:
    """The set that `name` stands for; `templates` is openai, simple or a file, `classnames` a file, one a line.

    Without these they come from the set, then from open_clip's metadata. Raises `UserError` when it cannot be read.
    """
    path = Path(name)
    if (path / "classnames.txt").is_file() and (path / split / "nshards.txt").is_file():
        found = _webdataset(path, split)
    elif path.is_dir() and not _is_datasets_folder(path):
        found = _class_folders(path, split)
    elif name.startswith((".", "/", "~")) and not path.exists():
        raise UserError(f"--dataset {name} does not exist")
    else:
        found = _datasets(name, split, image_column, label_column)
    if classnames is not None:
        names = _lines(classnames, "--classnames")
        if len(names) != len(found.classnames):
            raise UserError(f"--classnames {classnames} has {len(names)} names for {len(found.classnames)} classes")
        found = replace(found, classnames=tuple(names))
    if templates is not None:
        found = replace(found, templates=read_templates(templates))
    if found.size == 0:
        raise UserError(f"{name} ({split}) holds no images")
    return found


def read_templates(name: str) -> tuple[Template, ...]:
    """`openai` (80), `simple` (7), or the lines of a file; each must hold {} or {c}."""
    if name == "openai":
        return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)
    if name == "simple":
        return tuple(template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES)
    lines = _lines(name, "--templates")
    for line in lines:
        if "{}" not in line and "{c}" not in line:
            raise UserError(
                f"--templates {name}: the line {line[:60]!r} holds neither {{}} nor {{c}} for the class name"
            )
    return tuple(lines)


def fill(template: Template, classname: str) -> str:
    """The prompt; nothing else in the template is interpreted."""
    return template.replace("{c}", classname).replace("{}", classname)


def _lines(path: str | Path, flag: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path} cannot be read ({type(error).__name__})") from None
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{flag} {path} is empty")
    return lines


def _default_templates(directory: Path) -> tuple[Template, ...]:
    for name in ("zeroshot_classification_templates.txt", "templates.txt"):
        if (directory / name).is_file():
            return read_templates(str(directory / name))
    return read_templates("openai")


def _is_datasets_folder(path: Path) -> bool:
    """Whether `datasets` reads the folder: saved to disk, parquet, or an image folder with metadata."""
    marks = ("dataset_info.json", "dataset_dict.json", "state.json")
    return any((path / mark).is_file() for mark in marks) or any(
        next(path.glob(pattern), None) is not None
        for pattern in ("*.parquet", "*/*.parquet", "metadata.*", "*/metadata.*")
    )


def _class_folders(path: Path, split: str) -> ClassificationSet:
    """{path}/{split}/{class}/image or {path}/{class}/image; ImageNet's folders of WordNet ids in sorted order."""
    root = path / split if (path / split).is_dir() else path
    folders = sorted(each for each in root.iterdir() if each.is_dir())
    if not folders:
        raise UserError(f"{root} has no folders, one a class is expected")
    files = []
    for label, folder in enumerate(folders):
        members = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not members:
            raise UserError(f"class {folder.name} in {root} has no images")
        files += [(file, label) for file in members]
    names = [folder.name for folder in folders]
    if len(names) == 1000 and all(name[0] == "n" and name[1:].isdigit() for name in names):
        names = list(open_clip.IMAGENET_CLASSNAMES)
    elif (path / "classnames.txt").is_file():
        names = _lines(path / "classnames.txt", "--classnames")
    names = [name.replace("_", " ") for name in names]
    if len(names) != len(folders):
        raise UserError(f"{path / 'classnames.txt'} has {len(names)} names for {len(folders)} folders")

    def samples(first: int = 0, step: int = 1) -> Iterator[tuple[Image.Image, int]]:
        for file, label in files[first::step]:
            yield decode(file.read_bytes(), str(file)), label

    return ClassificationSet(path.name, tuple(names), _default_templates(path), len(files), samples)


def _webdataset(path: Path, split: str) -> ClassificationSet:
    import webdataset

    number = int(_lines(path / split / "nshards.txt", "nshards.txt")[0])
    tars = [str(path / split / f"{index}.tar") for index in range(number)]
    missing = [tar for tar in tars if not Path(tar).is_file()]
    if missing:
        raise UserError(f"{missing[0]} is missing: {path / split / 'nshards.txt'} promises {number} shards")

    def rows() -> Iterator[dict]:
        return iter(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False))

    def samples(first: int = 0, step: int = 1) -> Iterator[tuple[Image.Image, int]]:
        for row in islice(rows(), first, None, step):
            extension = next((key for key in row if key.lower() in IMAGE_EXTENSIONS), None)
            if extension is None or "cls" not in row:
                raise UserError(f"sample {row.get('__key__')} of {path} lacks an image or its .cls")
            yield decode(row[extension], f"{row['__url__']}:{row['__key__']}"), int(row["cls"])

    size = sum(1 for _ in rows())
    names = tuple(_lines(path / "classnames.txt", "classnames.txt"))
    return ClassificationSet(path.name, names, _default_templates(path), size, samples)


def _datasets(name: str, split: str, image_column: str, label_column: str) -> ClassificationSet:
    import datasets

    path = Path(name)
    try:
        if any((path / mark).is_file() for mark in ("dataset_info.json", "dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(name)
            data = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            data = datasets.load_dataset(name, split=split)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--dataset {name} (--split {split}) cannot be loaded: {reason}") from None
    for flag, column in (("--image-column", image_column), ("--label-column", label_column)):
        if column not in data.column_names:
            raise UserError(f"{name} has no column {column} but {', '.join(data.column_names)}; name it with {flag}")
    feature = data.features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        names, data_labels = tuple(feature.names), list(data[label_column])
    else:
        values = list(data[label_column])
        numbers = {value: number for number, value in enumerate(sorted(set(values)))}
        names = tuple(map(str, numbers))
        data_labels = [numbers[value] for value in values]
    images = data.cast_column(image_column, datasets.Image(decode=False))

    def samples(first: int = 0, step: int = 1) -> Iterator[tuple[Image.Image, int]]:
        for index in range(first, len(data_labels), step):
            label = data_labels[index]
            stored = images[index][image_column]
            raw = stored["bytes"] if stored["bytes"] is not None else Path(stored["path"]).read_bytes()
            yield decode(raw, f"{name}[{index}]"), int(label)

    templates = _default_templates(path) if path.is_dir() else read_templates("openai")
    classnames = tuple(text.replace("_", " ") for text in names)
    revision = next(iter(data.download_checksums or {}), "") if not path.exists() else ""
    return ClassificationSet(path.name, classnames, templates, len(data_labels), samples, revision)


def decode(data: bytes, where: str) -> Image.Image:
    """RGB image of untrusted bytes; `UserError` naming `where`."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"{where} does not open as an image ({error})") from None


def prompts(classnames: Sequence[str], templates: Sequence[Template]) -> list[str]:
    """Every template of the first class, then of the second, ..."""
    return [fill(template, name) for name in classnames for template in templates]
