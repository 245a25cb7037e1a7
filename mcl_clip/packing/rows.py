"""What a source says of one sample, and what every source must be able to say."""

import base64
import binascii
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mcl_clip.errors import UserError

# A path cannot begin like one of these and be as long as an image: JPEG, PNG and RIFF (WebP) in base64.
_BASE64 = ("/9j/", "iVBORw0KGgo", "UklGR")
_BASE64_LENGTH = 128
IMAGE_COLUMNS = ("filepath", "image", "img", "jpg", "png", "webp", "image_path", "path", "file_name", "filename")
CAPTION_COLUMNS = ("title", "caption", "captions", "text", "txt", "sentences")


class Skip(Exception):
    """Why a row gives no sample; few words, the same for every row with the same trouble."""


class Row(NamedTuple):
    """One sample to be.

    image: an encoded image, or the path of one. captions: none, one, or several in order. listed: the source gives
    a list of captions, be it of one. name: how the source calls the image. fault: why there is nothing to read.
    """

    image: bytes | str | None
    captions: list[str]
    listed: bool = False
    name: str | None = None
    fault: str | None = None


class Unit(NamedTuple):
    """The rows of one shard: how many, and where the source's reader finds the first."""

    shard: int
    rows: int
    at: tuple[int, ...]


class Source(Protocol):
    """Rows in a fixed order, cut into units that can be read on their own, by any process.

    identity: JSON that differs when the rows do. total: rows, when known before they are read. parallel: whether
    several processes may read it. `work` is a directory in which `units` may leave what `rows` needs.
    """

    @property
    def identity(self) -> dict[str, Any]: ...

    @property
    def total(self) -> int | None: ...

    @property
    def parallel(self) -> bool: ...

    def units(self, size: int, work: Path) -> Iterable[Unit]:
        """Runs of `size` consecutive rows, the last one shorter."""
        ...

    def rows(self, unit: Unit, work: Path) -> Iterator[Row]:
        """The rows of a unit, `unit.rows` of them."""
        ...


class Columns(NamedTuple):
    """Which columns of a table hold the image and the caption, and where relative paths start."""

    image: str
    caption: str
    base: str

    def row(self, values: dict[str, Any]) -> Row:
        """The row of a record."""
        captions, listed = captions_of(values.get(self.caption))
        image, name = image_of(values.get(self.image), self.base)
        return Row(image, captions, listed, name)


def choose_columns(
    source: object, names: Iterable[str], base: str | os.PathLike, image: str | None = None, caption: str | None = None
) -> Columns:
    """The columns asked for, else the only ones that can be meant; `UserError` that lists what there is."""
    names = list(names)
    chosen = []
    for flag, asked, known in (("img", image, IMAGE_COLUMNS), ("caption", caption, CAPTION_COLUMNS)):
        found = [name for name in names if (name == asked if asked else name.lower() in known)]
        if len(found) != 1:
            having = f"{len(found)} columns" if found else "no column" if asked else "0 columns"
            raise UserError(
                f"{source} has {having} {repr(asked) if asked else 'that may hold it'}: its "
                f"columns are {', '.join(repr(name[:60]) for name in names[:20])}; name one with --csv-{flag}-key"
            )
        chosen.append(found[0])
    return Columns(chosen[0], chosen[1], os.path.abspath(base))


def image_of(value: Any, base: str) -> tuple[bytes | str | None, str | None]:
    """(image, its name) of a cell: a path, bytes, base64, or a struct of `bytes` and `path` as `datasets` has."""
    if isinstance(value, dict):
        path = value.get("path") if isinstance(value.get("path"), str) else None
        data = value.get("bytes")
        return image_of(data if data else path, base)[0], path
    if isinstance(value, (bytes, bytearray)):
        return bytes(value), None
    if not isinstance(value, str) or not value.strip():
        return None, None
    if value.startswith("data:"):
        value = value.partition(",")[2]
    elif not (value.startswith(_BASE64) and len(value) > _BASE64_LENGTH):
        value = value.strip()
        return value if "://" in value[:10] else os.path.join(base, value), value
    try:
        return base64.b64decode(value), None
    except (binascii.Error, ValueError):
        return b"", None


def captions_of(value: Any) -> tuple[list[str], bool]:
    """(captions that are not blank, whether they came as a list) of a cell."""
    listed = isinstance(value, (list, tuple))
    values = [str(item) for item in (value if listed else [value]) if isinstance(item, (str, int, float))]
    # Half a surrogate pair, which JSON may escape, is no text.
    return [text.encode("utf-8", "replace").decode() for text in values if text.strip()], listed


def cut(total: int, size: int) -> Iterator[Unit]:
    """Units of a source whose rows are found by number."""
    for shard, first in enumerate(range(0, total, size)):
        yield Unit(shard, min(size, total - first), (first,))


def file_identity(path: str | os.PathLike) -> list[Any]:
    """What tells a file from one that took its place."""
    status = os.stat(path)
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]
