"""Bucketing with `Resize`: the picture of a sample, and what became of all of them."""

import logging
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from mcl_clip.shards.grouping import members_of
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.resize import RESIZED, Resize

log = logging.getLogger(__name__)
Pictures = dict[str, dict[str, int]]
"""{what became of them: {"count": how many, "bytes_before": of their files, "bytes_after": }}; plain JSON."""


class Picture(NamedTuple):
    """The image file of a sample: bytes [start, start + size) of it."""

    sample: bytes
    key: str
    start: int
    size: int


def resized(picture: Picture, crc32: int, resize: Resize, pictures: Pictures) -> dict[int, bytes]:
    """The file that stands for this one, by its place; {} where it stays. What became of it is added to `pictures`.

    A sample whose payloads have another CRC-32 than `crc32` keeps all its bytes, and is found by that in the buckets.
    """
    sample, key, start, size = picture
    payloads = [sample[member.data : member.data + member.size] for member in members_of(sample, 0, len(sample), key)]
    data = sample[start : start + size]
    smaller, what = resize(data) if crc32_of(payloads) == crc32 else (data, "damaged since they were indexed")
    note(pictures, what, size, len(smaller))
    return {start: smaller} if what == RESIZED else {}


def crc32_of(payloads: Iterable[bytes | memoryview]) -> int:
    """CRC-32 over payloads, in order."""
    value = 0
    for payload in payloads:
        value = zlib.crc32(payload, value)
    return value


def note(pictures: Pictures, what: str, before: int, after: int, count: int = 1) -> None:
    """Add `count` more pictures."""
    entry = pictures.setdefault(what, {"count": 0, "bytes_before": 0, "bytes_after": 0})
    entry["count"] += count
    entry["bytes_before"] += before
    entry["bytes_after"] += after


def total(parts: Iterable[Pictures]) -> Pictures:
    """The pictures of all parts, those resized first."""
    found: Pictures = {}
    for part in parts:
        for what, entry in part.items():
            note(found, what, entry["bytes_before"], entry["bytes_after"], entry["count"])
    return dict(sorted(found.items(), key=lambda item: (item[0] != RESIZED, item[0])))


def line(pictures: Pictures) -> str:
    """How many were resized, from how many bytes to how many, and how many copied, for each reason."""
    made = pictures.get(RESIZED, {"count": 0, "bytes_before": 0, "bytes_after": 0})
    copied = {what: entry["count"] for what, entry in pictures.items() if what != RESIZED}
    reasons = ", ".join(f"{count:,} {what}" for what, count in copied.items())
    before, after = (f"{made[name] / 2**20:,.1f} MiB" for name in ("bytes_before", "bytes_after"))
    return f"{made['count']:,} pictures resized, {before} -> {after}; {sum(copied.values()):,} copied" + (
        f" ({reasons})" if copied else ""
    )


def tell_pictures(manifest: Manifest) -> None:
    """Log it, of buckets that were made with `Resize`."""
    if pictures := manifest.made_from.get("pictures"):
        log.info("%s: %s", manifest.directory, line(pictures))
