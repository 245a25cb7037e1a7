"""Captioned image sets by name, whatever their layout."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eval.data.caption_files import open_caption_file
from eval.data.hf_datasets import load_split, only_column, read_image, refuse_flags, undecoded
from eval.data.hub import fetch_split
from eval.data.images import Sample
from eval.data.retrieval_set import RetrievalSet
from eval.data.webdataset_folder import has_shards, open_captioned_shards
from mcl_clip.errors import UserError

CAPTION_COLUMNS = ("captions", "caption", "sentences", "text", "txt")


def open_captions(
    name: str,
    split: str = "test",
    *,
    images: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    revision: str | None = None,
) -> RetrievalSet:
    """The set that `name` stands for: a hub id or folder that `datasets` reads, CLIP_benchmark's WebDataset layout, or
    a JSON of COCO's or Karpathy's (see `open_caption_file`), whose images stand in the folder `images`.

    Columns are a table's; `revision` is a branch, tag or commit of the hub. Raises `UserError` when the set cannot be
    read, or is of another kind than these.
    """
    path = Path(name).expanduser()
    columns = {"image_column": image_column, "caption_column": caption_column}
    if path.exists():
        refuse_flags(name, "which is no data set of the hub", revision=revision)
    if path.suffix == ".json":
        refuse_flags(name, "which is no table but a JSON of captions", **columns)
        return open_caption_file(path, split, None if images is None else Path(images))
    if images is not None:
        raise UserError(f"--images belongs to a JSON of captions; {name} holds its own images")
    if name.startswith("clip-benchmark/wds_") and not path.exists():
        refuse_flags(name, "which is no table but shards", **columns)
        folder, commit = fetch_split(name, split, revision)
        return replace(open_captioned_shards(folder, split), name=path.name, revision=commit)
    if has_shards(path):
        refuse_flags(name, "which is no table but shards", **columns)
        return open_captioned_shards(path, split)
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(f"--dataset {name} does not exist; give a folder, a JSON of captions or a hub id, OWNER/NAME")
    return _from_datasets(str(path) if path.exists() else name, split, image_column, caption_column, revision)


def _from_datasets(
    name: str, split: str, image_column: str | None, caption_column: str | None, revision: str | None
) -> RetrievalSet:
    """An image a row; the caption column holds a text or a list of texts."""
    rows, commit = load_split(name, split, revision)
    image_column = image_column or only_column(rows, "Image", "image", "--image-column", name)
    caption_column = caption_column or next((each for each in CAPTION_COLUMNS if each in rows.column_names), "captions")
    for flag, column in (("--image-column", image_column), ("--caption-column", caption_column)):
        if column not in rows.column_names:
            raise UserError(f"{name} has no column {column} but {', '.join(rows.column_names)}; name it with {flag}")
    images = undecoded(rows, image_column, name)
    try:
        captions = [_texts(value) for value in rows[caption_column]]
    except TypeError:
        kind = rows.features[caption_column]
        raise UserError(
            f"the column {caption_column} of {name} holds no texts but {kind}; name another with --caption-column"
        ) from None
    kept = [row for row, texts in enumerate(captions) if texts]
    if not kept:
        raise UserError(f"{name} (split {split}) holds no captions in {caption_column}; name another --caption-column")
    left = len(captions) - len(kept)
    notes = (f"left out of {name} are images without a caption: {left}",) if left else ()

    def samples() -> Iterator[Sample]:
        for row in kept:
            yield Sample(partial(read_image, images, row, image_column), f"{name}[{row}]", "\n".join(captions[row]))

    return RetrievalSet(Path(name).name, tuple(captions[row] for row in kept), samples, commit, notes)


def _texts(value: Any) -> tuple[str, ...]:
    """Of a text, a list of texts, or None; `TypeError` of anything else."""
    texts = value if isinstance(value, list) else [value]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise TypeError(value)
    return tuple(text.strip() for text in texts if text and text.strip())
