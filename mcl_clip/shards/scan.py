"""One tar, member by member: which bytes make up each WebDataset sample."""

import mmap
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mcl_clip.errors import UserError
from mcl_clip.shards.captions import first_caption, read_captions
from mcl_clip.shards.kinds import mend
from mcl_clip.shards.offsets import IMAGE_EXTENSIONS, SCHEMA, failed_rows
from mcl_clip.shards.remote import is_remote, open_tar
from mcl_clip.shards.tar import Member, TarError, members

_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")


def scan_tar(path: str, tar: int = 0, caption_key: str | None = None, size: int | None = None) -> tuple[pa.Table, int]:
    """(rows of the samples, CRC-32 of the bytes that belong to none) of one tar.

    `tar` is its index among the manifest's tars, `size` what is known of a remote one. Raises `UserError` that
    names the file.
    """
    with open_tar(path, size) as file:
        try:
            if not os.fstat(file.fileno()).st_size:
                raise TarError("truncated: it is empty")
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                mapped.madvise(mmap.MADV_SEQUENTIAL)
                with memoryview(mapped) as buffer:
                    return _rows(buffer, tar, caption_key)
        except TarError as error:
            known = None if is_remote(path) else mend(path)
            raise UserError(known or f"{path}: {error}; is it an uncompressed, complete tar?") from None


@dataclass
class Sample:
    """The adjacent members that share a key."""

    key: str
    members: list[Member]
    extensions: list[str]


def samples(buffer: Any, start: int = 0, stop: int | None = None, *, archive: bool = True) -> Iterator[Sample]:
    """Group a tar's members by WebDataset's rule: the key ends at the first dot of the base name.

    Extensions are in lower case. Members without an extension and `__meta__` files belong to no sample.
    Raises `TarError` for a member twice in a sample and for names that leave the directory.
    """
    sample: Sample | None = None
    for member in members(buffer, start, stop, archive=archive):
        if not _is_utf8(member.name):
            raise TarError(f"member name {member.name!r} is not UTF-8")
        if member.name.startswith("/") or (".." in member.name and ".." in member.name.split("/")):
            raise TarError(f"member {member.name!r} leaves the directory")
        match = _KEY.fullmatch(member.name)
        if not match or _META.match(member.name):
            continue
        key, extension = match[1], match[2].lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key, [], [])
        if extension in sample.extensions:
            raise TarError(f"member {member.name!r} occurs twice")
        sample.members.append(member)
        sample.extensions.append(extension)
    if sample is not None:
        yield sample


def checksums(buffer: Any, sample: Sequence[Member]) -> tuple[int, int]:
    """(CRC-32 of the payloads, CRC-32 of headers and padding) of adjacent members."""
    payload = frame = 0
    at = sample[0].start
    for member in sample:
        end = member.data + member.size
        frame = zlib.crc32(buffer[at : member.data], frame)
        payload = zlib.crc32(buffer[member.data : end], payload)
        at = end
    return payload, zlib.crc32(buffer[at : sample[-1].stop], frame)


def _rows(buffer: Any, tar: int, caption_key: str | None) -> tuple[pa.Table, int]:
    rows: dict[str, list] = {name: [] for name in SCHEMA.names}
    seen: set[str] = set()
    rest = at = 0
    caption_extension = "txt" if caption_key is None else "json"
    for sample in samples(buffer):
        if sample.key in seen:
            raise TarError(f"key {sample.key!r} occurs twice, or its members are not adjacent")
        seen.add(sample.key)
        start, stop = sample.members[0].start, sample.members[-1].stop
        rest, at = zlib.crc32(buffer[at:start], rest), stop
        by_extension = dict(zip(sample.extensions, sample.members, strict=True))
        code = next((code for code, name in enumerate(IMAGE_EXTENSIONS) if name in by_extension), -1)
        image = by_extension[IMAGE_EXTENSIONS[code]] if code >= 0 else None
        caption = by_extension.get(caption_extension)
        if caption and first_caption(read_captions(_payload(buffer, caption), caption_key)) is None:
            caption = None
        payload_crc32, frame_crc32 = checksums(buffer, sample.members)
        rows["key"].append(sample.key)
        rows["image_offset"].append(image.data if image else 0)
        rows["image_size"].append(image.size if image else 0)
        rows["image_extension"].append(code)
        rows["caption_offset"].append(caption.data if caption else 0)
        rows["caption_size"].append(caption.size if caption else 0)
        rows["sample_offset"].append(start)
        rows["sample_size"].append(stop - start)
        rows["payload_crc32"].append(payload_crc32)
        rows["frame_crc32"].append(frame_crc32)
    rest = zlib.crc32(buffer[at:], rest)
    rows["tar"] = [tar] * len(rows["key"])
    table = pa.table(rows, SCHEMA)
    failed = failed_rows(table)
    if failed.any():
        table = table.take(np.argsort(failed, kind="stable"))
    return table, rest


def _payload(buffer: Any, member: Member) -> bytes:
    return bytes(buffer[member.data : member.data + member.size])


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
