"""CLIP_benchmark's WebDataset layout: {split}/nshards.txt and {split}/0.tar, ...; classes have classnames.txt too."""

import mmap
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from eval.data.classification_set import ClassificationSet
from eval.data.images import Sample
from eval.data.prompts import read_lines, templates_in
from eval.data.retrieval_set import RetrievalSet
from mcl_clip.errors import UserError
from mcl_clip.shards.offsets import IMAGE_EXTENSIONS
from mcl_clip.shards.tar import Member, TarError, members


def is_webdataset_folder(path: Path) -> bool:
    """Whether `path` is laid out so, of classes, whatever its splits."""
    return (path / "classnames.txt").is_file() and has_shards(path)


def has_shards(path: Path) -> bool:
    """Whether a split of `path` is laid out so, of classes or captions."""
    return next(path.glob("*/nshards.txt"), None) is not None


def open_webdataset_folder(path: Path, split: str) -> ClassificationSet:
    """A sample is an image and a .cls with its class number under one key. Only headers and .cls are read here.

    Raises `UserError` on an absent split or shard, a tar that was cut, and a sample without image or class.
    """
    found = [_with_class(each) for each in _samples(path, split, "cls")]
    names = tuple(read_lines(path / "classnames.txt", "class names"))
    return ClassificationSet(path.name, names, templates_in(path), len(found), lambda: iter(found))


def open_captioned_shards(path: Path, split: str) -> RetrievalSet:
    """A sample is an image and a .txt with a caption a line under one key. Only headers and .txt are read here.

    Raises `UserError` on an absent split or shard, a tar that was cut, and a sample without image or caption.
    """
    found = [_with_captions(each) for each in _samples(path, split, "txt")]
    if not found:
        raise UserError(f"--dataset {path} (split {split}) holds no images")
    return RetrievalSet(path.name, tuple(tuple(str(each.label).split("\n")) for each in found), lambda: iter(found))


def _with_class(sample: Sample) -> Sample:
    text = str(sample.label).strip()
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"sample {sample.where} has the class {text[:20]!r}; expected is a number")
    return replace(sample, label=int(text))


def _with_captions(sample: Sample) -> Sample:
    captions = [line.strip() for line in str(sample.label).splitlines() if line.strip()]
    if not captions:
        raise UserError(f"sample {sample.where} has no caption in its .txt")
    return replace(sample, label="\n".join(captions))


def _samples(path: Path, split: str, annotation: str) -> Iterator[Sample]:
    """Images of all shards in order, each with the text of its `annotation` as label."""
    listed = path / split / "nshards.txt"
    if not listed.is_file():
        others = ", ".join(sorted(each.parent.name for each in path.glob("*/nshards.txt")))
        raise UserError(f"--dataset {path} has no split {split} but {others}; name one with --split")
    count = read_lines(listed, "the number of shards")[0]
    if not (count.isascii() and count.isdigit()):
        raise UserError(f"{listed} holds {count[:20]!r}; expected is the number of shards")
    for number in range(int(count)):
        yield from _samples_of(path / split / f"{number}.tar", count, annotation)


def _samples_of(tar: Path, count: str, annotation: str) -> Iterator[Sample]:
    """Samples in the tar's order; members of a key stand side by side, as WebDataset demands."""
    if not tar.is_file():
        raise UserError(f"{tar} is missing: {tar.parent / 'nshards.txt'} promises {count} shards; fetch it again")
    if not tar.stat().st_size:
        raise UserError(f"{tar} is empty; fetch it again")
    with open(tar, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        key, parts = "", dict[str, Member]()
        try:
            for member in members(buffer):
                folder, _, base = member.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if (name := f"{folder}/{stem}") != key and parts:
                    yield _sample(tar, key, parts, buffer, annotation)
                    parts = {}
                key, parts[extension.lower()] = name, member
            if parts:
                yield _sample(tar, key, parts, buffer, annotation)
        except TarError as error:
            raise UserError(f"{tar} is no whole tar ({error}); fetch it again") from None


def _sample(tar: Path, key: str, parts: dict[str, Member], buffer: mmap.mmap, annotation: str) -> Sample:
    where = f"{tar}:{key.lstrip('/')}"
    image = next((parts[extension] for extension in IMAGE_EXTENSIONS if extension in parts), None)
    if image is None or annotation not in parts:
        raise UserError(f"sample {where} lacks {'an image' if image is None else f'its .{annotation}'}")
    member = parts[annotation]
    text = buffer[member.data : member.data + member.size].decode(errors="replace")
    return Sample(partial(_read, tar, image.data, image.size), where, text)


def _read(tar: Path, offset: int, size: int) -> bytes:
    with open(tar, "rb") as file:
        file.seek(offset)
        return file.read(size)
