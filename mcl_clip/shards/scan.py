"""One tar, member by member: which bytes make up each WebDataset sample."""

import mmap
import os
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mcl_clip.errors import UserError
from mcl_clip.left_out import FIRST, Record, note
from mcl_clip.shards.apart import APART, UNGROUPED, Apart
from mcl_clip.shards.captions import NO_CAPTIONS, NUMBERED, first_caption, read_captions
from mcl_clip.shards.grouping import Sample, samples
from mcl_clip.shards.kinds import mend
from mcl_clip.shards.offsets import IMAGE_EXTENSIONS, SCHEMA, failed_rows
from mcl_clip.shards.remote import is_remote, open_tar
from mcl_clip.shards.tar import Member, TarError


class Scan(NamedTuple):
    """Rows of a tar's samples, CRC-32 of the bytes that belong to none, what is not trained on, and how many rows,
    after those that are and before the failed ones, are set apart."""

    rows: pa.Table
    rest_crc32: int
    left_out: Record
    apart: int = 0


def scan_tar(
    path: str, tar: int = 0, caption_key: str | None = None, size: int | None = None, apart: Apart | None = None
) -> Scan:
    """Scan one tar; `tar` is its index among the manifest's tars, `size` what is known of a remote one.

    Captions are in `.txt`, under `caption_key` of `.json`, or with `NO_CAPTIONS` not looked for.

    Raises `UserError` that names the file.
    """
    with open_tar(path, size) as file:
        try:
            if not os.fstat(file.fileno()).st_size:
                raise TarError("truncated: it is empty")
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                mapped.madvise(mmap.MADV_SEQUENTIAL)
                with memoryview(mapped) as buffer:
                    return _scan(buffer, tar, caption_key, apart)
        except TarError as error:
            known = None if is_remote(path) else mend(path)
            raise UserError(known or f"{path}: {error}; is it an uncompressed, complete tar?") from None


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


def _scan(buffer: Any, tar: int, caption_key: str | None, apart: Apart | None) -> Scan:
    rows: dict[str, list] = {name: [] for name in SCHEMA.names}
    seen: set[str] = set()
    left_out: Record = {}
    strays: list[str] = []
    set_apart: list[int] = []
    rest = at = 0
    needs_captions = caption_key != NO_CAPTIONS
    caption_extension = "json" if caption_key else "txt"
    for sample in samples(buffer, caption_extension, strays):
        if sample.key in seen:
            raise TarError(f"key {sample.key!r} occurs twice, or its members are not adjacent")
        seen.add(sample.key)
        start, stop = sample.members[0].start, sample.members[-1].stop
        rest, at = zlib.crc32(buffer[at:start], rest), stop
        by_extension = dict(zip(sample.extensions, sample.members, strict=True))
        code = next((code for code, name in enumerate(IMAGE_EXTENSIONS) if name in by_extension), -1)
        image = by_extension[IMAGE_EXTENSIONS[code]] if code >= 0 else None
        caption = _caption(sample, caption_extension) if needs_captions else None
        text = first_caption(read_captions(bytes(buffer[slice(*caption)]), caption_key)) if caption else None
        first, last = caption if caption and text else (0, 0)
        if not (image and image.size and (last or not needs_captions)):
            note(left_out, _reason(sample, image, caption, caption_key), [sample.key])
        elif apart:
            record = by_extension.get("json") if apart.key else None
            group = apart.group(text, _payload(buffer, record) if record else None)
            if group is None:
                note(left_out, UNGROUPED, [sample.key])
            elif apart.holds(group):
                note(left_out, APART, [sample.key])
                set_apart.append(len(rows["key"]))
        payload_crc32, frame_crc32 = checksums(buffer, sample.members)
        rows["key"].append(sample.key)
        rows["image_offset"].append(image.data if image else 0)
        rows["image_size"].append(image.size if image else 0)
        rows["image_extension"].append(code)
        rows["caption_offset"].append(first)
        rows["caption_size"].append(last - first)
        rows["sample_offset"].append(start)
        rows["sample_size"].append(stop - start)
        rows["payload_crc32"].append(payload_crc32)
        rows["frame_crc32"].append(frame_crc32)
    rest = zlib.crc32(buffer[at:], rest)
    rows["tar"] = [tar] * len(rows["key"])
    table = pa.table(rows, SCHEMA)
    place = 2 * failed_rows(table, needs_captions)
    place[set_apart] = 1
    if place.any():
        table = table.take(np.argsort(place, kind="stable"))
    if strays:
        note(left_out, "files without an extension", strays[:FIRST], len(strays))
    return Scan(table, rest, left_out, len(set_apart))


def _caption(sample: Sample, extension: str) -> tuple[int, int] | None:
    """The bytes that `read_captions` takes: a file's, or those from the first numbered caption to the last."""
    for member, own in zip(sample.members, sample.extensions, strict=True):
        if own == extension:
            return member.data, member.data + member.size
    numbered = [
        member
        for member, own in zip(sample.members, sample.extensions, strict=True)
        if extension == "txt" and NUMBERED.fullmatch(own)
    ]
    return (numbered[0].start, numbered[-1].stop) if numbered else None


def _reason(sample: Sample, image: Member | None, caption: tuple[int, int] | None, caption_key: str | None) -> str:
    """Why a sample cannot be trained on."""
    if image is None:
        others = any(extension not in ("txt", "json") for extension in sample.extensions)
        kinds = ", ".join(f".{name}" for name in IMAGE_EXTENSIONS)
        return f"with files of other types than {kinds}" if others else "without an image"
    if not image.size:
        return "with an empty image"
    if caption is None:
        return "without a caption" if caption_key is None else "without a .json"
    return "with a blank caption" if caption_key is None else f"without a caption under {caption_key!r}"


def _payload(buffer: Any, member: Member) -> bytes:
    return bytes(buffer[member.data : member.data + member.size])
