"""Samples that are found, not read: a folder or an annotation file as a list of one line each."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcl_clip.artifacts import atomic_path
from mcl_clip.packing.images import read_file
from mcl_clip.packing.rows import Row, Skip, Unit, captions_of
from mcl_clip.packing.text_files import json_records, line_units

# {"image": path, "captions": a text or a list} or {"image": path, "text": path of the caption}
Entry = dict[str, Any]


@dataclass(frozen=True)
class Listing:
    """Entries whose paths start at `base`; make it with `list_rows`. The list is written once, to `work`."""

    entries: Callable[[], Iterator[Entry]]
    base: str
    identity: dict[str, Any]
    total: int | None
    parallel: bool = True

    def units(self, size: int, work: Path) -> Iterator[Unit]:
        """See `Source`."""
        with atomic_path(_path(work)) as temporary, open(temporary, "w", encoding="ascii") as file:
            file.writelines(_line(entry) for entry in self.entries())
        return line_units(_path(work), size)

    def rows(self, unit: Unit, work: Path) -> Iterator[Row]:
        """See `Source`."""
        for entry in json_records(_path(work), unit):
            captions, listed = captions_of(entry.get("captions"))
            fault = None
            try:
                if "text" in entry:
                    text = read_file(os.path.join(self.base, entry["text"]))
                    captions, _ = captions_of(text.decode("utf-8-sig", "replace").strip())
            except Skip as skip:
                fault = f"the caption: {skip}"
            yield Row(os.path.join(self.base, entry["image"]), captions, listed, entry["image"], fault)


def list_rows(kind: str, entries: Callable[[], Iterator[Entry]], base: str | os.PathLike) -> Listing:
    """The rows of `entries`, which may be called again and then gives the same."""
    digest, total = hashlib.sha256(), 0
    for entry in entries():
        digest.update(_line(entry).encode())
        total += 1
    base = os.path.abspath(base)
    return Listing(entries, base, {"kind": kind, "base": base, "listing": digest.hexdigest()}, total)


def _line(entry: Entry) -> str:
    return json.dumps(entry) + "\n"


def _path(work: Path) -> Path:
    return work / "listing.jsonl"
