"""Captions as COCO and Karpathy's splits of COCO and Flickr publish them: one JSON beside a folder of images."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from eval.data.images import Sample, file_sample
from eval.data.retrieval_set import RetrievalSet
from mcl_clip.errors import UserError


def open_caption_file(path: Path, split: str, images: Path | None = None) -> RetrievalSet:
    """COCO's captions_*.json (`images`, `annotations`; one split a file), or Karpathy's dataset_*.json (`images` with
    `sentences`; `split` chooses). `images` is the folder that file names start from, by default the JSON's.

    Images without a caption are left out and told. Raises `UserError` on other files, absent images, names that leave
    the folder, and a split that does not exist.
    """
    folder = images or path.parent
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"--dataset {path} cannot be read as JSON ({error})") from None
    try:
        listed = list(_karpathy(content, split, path) if "annotations" not in content else _coco(content))
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"--dataset {path} is neither COCO's captions nor one of Karpathy's files ({reason})") from None
    captioned = [(inside(folder, name), captions) for name, captions in listed if captions]
    if not captioned:
        raise UserError(f"--dataset {path} holds no captions")
    left = len(listed) - len(captioned)
    notes = (f"left out of {path} are images without a caption: {left}",) if left else ()

    def samples() -> Iterator[Sample]:
        return (file_sample(file, "\n".join(captions)) for file, captions in captioned)

    return RetrievalSet(path.stem, tuple(captions for _, captions in captioned), samples, notes=notes)


def _coco(content: dict[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    captions: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if text := annotation["caption"].strip():
            captions[annotation["image_id"]].append(text)
    for image in content["images"]:
        yield image["file_name"], tuple(captions[image["id"]])


def _karpathy(content: dict[str, Any], split: str, path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    splits = sorted({image["split"] for image in content["images"]})
    if split not in splits:
        raise UserError(f"--dataset {path} has no split {split} but {', '.join(splits)}; name one with --split")
    for image in content["images"]:
        if image["split"] == split:
            name = str(PurePosixPath(image.get("filepath", ""), image["filename"]))
            yield name, tuple(text for sentence in image["sentences"] if (text := sentence["raw"].strip()))


def inside(folder: Path, name: str) -> Path:
    """The file of an untrusted name, which may not leave the folder."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UserError(f"the image name {name!r} leads out of {folder}")
    if not (folder / name).is_file():
        raise UserError(f"{folder / name} does not exist; name the folder of the images with --images")
    return folder / name
