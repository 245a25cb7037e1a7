"""CLIP_benchmark's WebDataset layout: classnames.txt, templates, {split}/nshards.txt and {split}/0.tar, 1.tar, ..."""

import mmap
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from eval.data.classification_set import ClassificationSet
from eval.data.images import Sample
from eval.data.prompts import read_lines, templates_in
from mcl_clip.errors import UserError
from mcl_clip.shards.offsets import IMAGE_EXTENSIONS
from mcl_clip.shards.tar import Member, TarError, members


def is_webdataset_folder(path: Path) -> bool:
    """Whether `path` is laid out so, whatever its splits."""
    return (path / "classnames.txt").is_file() and next(path.glob("*/nshards.txt"), None) is not None


def open_webdataset_folder(path: Path, split: str) -> ClassificationSet:
    """A sample is an image and a .cls with its class number under one key. Only headers and .cls are read here.

    Raises `UserError` on an absent split or shard, a tar that was cut, and a sample without image or class.
    """
    listed = path / split / "nshards.txt"
    if not listed.is_file():
        others = ", ".join(sorted(each.parent.name for each in path.glob("*/nshards.txt")))
        raise UserError(f"--dataset {path} has no split {split} but {others}; name one with --split")
    count = read_lines(listed, "the number of shards")[0]
    if not (count.isascii() and count.isdigit()):
        raise UserError(f"{listed} holds {count[:20]!r}; expected is the number of shards")
    found = [sample for number in range(int(count)) for sample in _samples_of(path / split / f"{number}.tar", count)]
    names = tuple(read_lines(path / "classnames.txt", "class names"))
    return ClassificationSet(path.name, names, templates_in(path), len(found), lambda: iter(found))


def _samples_of(tar: Path, count: str) -> Iterator[Sample]:
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
                    yield _sample(tar, key, parts, buffer)
                    parts = {}
                key, parts[extension.lower()] = name, member
            if parts:
                yield _sample(tar, key, parts, buffer)
        except TarError as error:
            raise UserError(f"{tar} is no whole tar ({error}); fetch it again") from None


def _sample(tar: Path, key: str, parts: dict[str, Member], buffer: mmap.mmap) -> Sample:
    where = f"{tar}:{key.lstrip('/')}"
    image = next((parts[extension] for extension in IMAGE_EXTENSIONS if extension in parts), None)
    if image is None or "cls" not in parts:
        raise UserError(f"sample {where} lacks {'an image' if image is None else 'its .cls'}")
    member = parts["cls"]
    text = buffer[member.data : member.data + member.size].strip()
    if not text.isdigit():
        raise UserError(f"sample {where} has the class {text[:20]!r}; expected is a number")
    return Sample(partial(_read, tar, image.data, image.size), where, int(text))


def _read(tar: Path, offset: int, size: int) -> bytes:
    with open(tar, "rb") as file:
        file.seek(offset)
        return file.read(size)
