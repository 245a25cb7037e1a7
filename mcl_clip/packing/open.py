"""Whatever a person names, as a source of rows."""

import re
from dataclasses import dataclass
from pathlib import Path

from mcl_clip.errors import UserError
from mcl_clip.packing.annotations import open_annotations
from mcl_clip.packing.folders import open_folder
from mcl_clip.packing.hf_datasets import open_saved, open_streamed
from mcl_clip.packing.parquet_files import open_parquet
from mcl_clip.packing.rows import Source
from mcl_clip.packing.text_files import open_delimited, open_json_lines
from mcl_clip.shards.kinds import SUFFIXES, kind_of, mend


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How to read a source: columns and separator of tables (open_clip's defaults for CSV), where images lie, ..."""

    image: str | None = None
    caption: str | None = None
    separator: str = "\t"
    image_dir: str | None = None
    template: str | None = None
    subset: str | None = None
    split: str | None = None


def open_source(name: str, wanted: Wanted) -> Source:
    """The rows of a file, a folder or a data set of the hub; `UserError` when it is none, with what it is."""
    path = Path(name)
    base = Path(wanted.image_dir) if wanted.image_dir else path if path.is_dir() else path.parent
    columns = wanted.image, wanted.caption
    kind = kind_of(path)
    if kind == "csv":
        return open_delimited(path, columns[0] or "filepath", columns[1] or "title", wanted.separator, base)
    if kind == "json lines":
        return open_json_lines(path, *columns, base)
    if kind == "parquet":
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        return open_parquet(files, *columns, base)
    if kind == "annotations":
        return open_annotations(path, wanted.image_dir, wanted.split, *columns)
    if kind == "datasets":
        return open_saved(path, wanted.split, *columns)
    if kind in ("tar", "tars"):
        raise UserError(f"{name} is packed already; mcl-train --train-data {name} takes it as it is")
    if path.is_dir():
        return open_folder(path, wanted.template)
    if path.exists():
        raise UserError(mend(name) or f"{name} is no CSV, TSV, parquet, JSON or JSON lines by its name or content")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name) or path.suffix.lower() in SUFFIXES:
        raise UserError(f"{name} does not exist")
    return open_streamed(name, wanted.subset, wanted.split, *columns)
