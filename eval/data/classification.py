"""Image classification sets by name, whatever their layout."""

from dataclasses import replace
from pathlib import Path

from eval.data.class_folders import open_class_folders
from eval.data.class_names import listed_names
from eval.data.classification_set import ClassificationSet
from eval.data.hf_classification import open_hf_classification
from eval.data.hf_datasets import is_datasets_folder, refuse_flags
from eval.data.hub import fetch_split
from eval.data.prompts import read_lines, read_templates
from eval.data.webdataset_folder import is_webdataset_folder, open_webdataset_folder
from mcl_clip.errors import UserError


def open_set(
    name: str,
    split: str = "test",
    *,
    templates: str | None = None,
    classnames: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
) -> ClassificationSet:
    """The set that `name` stands for: a hub id or folder that `datasets` reads, CLIP_benchmark's WebDataset layout,
    or a folder per class.

    `templates` is openai, simple or a file; `classnames` a file with a name a line. Without these they come from the
    set, then from open_clip's metadata. Columns are a table's; `revision` is a branch, tag or commit of the hub. Raises
    `UserError` when the set cannot be read, or is of another kind than these.
    """
    path = Path(name).expanduser()
    columns = {"label_column": label_column, "image_column": image_column}
    if path.exists():
        refuse_flags(name, "which is no data set of the hub", revision=revision)
    if name.startswith("clip-benchmark/wds_") and not path.exists():
        refuse_flags(name, "which is no table but shards", **columns)
        folder, commit = fetch_split(name, split, revision)
        found = replace(open_webdataset_folder(folder, split), name=path.name, revision=commit)
    elif is_webdataset_folder(path):
        refuse_flags(name, "which is no table but shards", **columns)
        found = open_webdataset_folder(path, split)
    elif path.is_dir() and not is_datasets_folder(path):
        refuse_flags(name, "which is no table but a folder per class", **columns)
        found = open_class_folders(path, split)
    elif not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"--dataset {name} does not exist; give a folder or a hub id, OWNER/NAME")
    else:
        found = open_hf_classification(
            str(path) if path.exists() else name, split, image_column, label_column, revision
        )
    if classnames is not None:
        found = listed_names(found, read_lines(classnames, "--classnames"), f"--classnames {classnames}")
    if templates is not None:
        found = replace(found, templates=read_templates(templates))
    if found.size == 0:
        raise UserError(f"--dataset {name} (split {split}) holds no images")
    return found
