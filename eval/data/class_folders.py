"""A plain folder per class, as torchvision's ImageFolder reads it and ImageNet's val set is laid out."""

from collections.abc import Iterator
from pathlib import Path

from eval.data.classification_set import ClassificationSet
from eval.data.images import Sample, file_sample
from eval.data.prompts import read_lines, readable, templates_in
from mcl_clip.errors import UserError
from mcl_clip.shards.offsets import IMAGE_EXTENSIONS

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test"}
SUFFIXES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)


def open_class_folders(path: Path, split: str) -> ClassificationSet:
    """{path}/{split}/{class}/**/image, or {path}/{class}/**/image; classes in the order of the folders' names.

    Class names stand in {path}/classnames.txt, else they are the folders' (see `prompts.readable`). Raises
    `UserError` when there are no folders, a folder has no images, or the folders are other splits.
    """
    root = path / split if (path / split).is_dir() else path
    folders = sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
    if not folders:
        raise UserError(f"--dataset {root} has no folders; expected is one for each class, with its images")
    if root == path and (others := [each.name for each in folders if each.name.lower() in SPLITS]):
        raise UserError(f"--dataset {path} has no split {split} but {', '.join(others)}; name one with --split")
    files: list[tuple[Path, int]] = []
    for label, folder in enumerate(folders):
        members = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not members:
            raise UserError(f"class {folder.name} in {root} has no images; add some, or remove the folder")
        files += [(file, label) for file in members]
    names = readable([folder.name for folder in folders])
    listed = path / "classnames.txt"
    if listed.is_file():
        names = tuple(read_lines(listed, "class names"))
        if len(names) != len(folders):
            raise UserError(f"{listed} has {len(names)} names for {len(folders)} folders in {root}")

    def samples() -> Iterator[Sample]:
        return (file_sample(file, label) for file, label in files)

    return ClassificationSet(path.name, names, templates_in(path), len(files), samples)
