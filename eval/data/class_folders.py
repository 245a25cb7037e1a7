"""A plain folder per class, as torchvision's ImageFolder reads it and ImageNet's val set is laid out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.data.class_names import listed_names, own_names
from eval.data.classification_set import ClassificationSet
from eval.data.images import Sample, file_sample
from eval.data.prompts import read_lines, templates_in
from mcl_clip.errors import UserError
from mcl_clip.loading.class_folders import Listing, in_order, is_hidden, list_images, visible_folders

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test"}


def open_class_folders(path: Path, split: str) -> ClassificationSet:
    """{path}/{split}/{class}/**/image, or {path}/{class}/**/image; classes by number or name (see `in_order`).

    Class names stand in {path}/classnames.txt (see `listed_names`), else they are the folders'. Hidden entries do not
    count. Raises `UserError` when there are no folders, a folder has no images, or the folders are other splits.
    """
    root = path / split if (path / split).is_dir() else path
    folders = {each.name: each for each in visible_folders(root)}
    if not folders:
        raise UserError(f"--dataset {root} has no folders; expected is one for each class, with its images")
    if root == path and (others := [name for name in folders if name.lower() in SPLITS]):
        raise UserError(f"--dataset {path} has no split {split} but {', '.join(others)}; name one with --split")
    keys = in_order(list(folders))
    listings = [list_images(folders[key]) for key in keys]
    for key, listing in zip(keys, listings, strict=True):
        if not listing.images:
            held = f" but {_kinds(listing.others)}" if listing.others else ""
            raise UserError(f"class {key} in {root} has no images{held}; add some, or remove the folder")
    files = [(file, label) for label, listing in enumerate(listings) for file in listing.images]

    def samples() -> Iterator[Sample]:
        return (file_sample(file, label) for file, label in files)

    found = own_names(
        ClassificationSet(
            path.name, (), templates_in(path), len(files), samples, keys=tuple(keys), notes=_left_out(root, listings)
        )
    )
    listed = path / "classnames.txt"
    return listed_names(found, read_lines(listed, "class names"), str(listed)) if listed.is_file() else found


def _left_out(root: Path, listings: Sequence[Listing]) -> tuple[str, ...]:
    """A line on what is none of the set's images, if there is any; the folder's own files are not told one by one."""
    hidden = [each for each in sorted(root.iterdir()) if is_hidden(each.name)]
    hidden += [file for listing in listings for file in listing.hidden]
    others = [file for listing in listings for file in listing.others]
    left = {"hidden entries": hidden, f"no images ({_kinds(others)})": others}
    told = [f"{what}: {len(files)}, first {files[0].relative_to(root)}" for what, files in left.items() if files]
    return (f"left out of {root} are {'; '.join(told)}",) if told else ()


def _kinds(files: Sequence[Path]) -> str:
    return ", ".join(sorted({file.suffix.lower() or "no suffix" for file in files}))
