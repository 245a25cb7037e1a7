"""Icons as pixels: drawn by resvg on white, never mirrored."""

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from benchmarks.emoji.names import Character, Icons
from mcl_clip.errors import UserError

SIDES = (32, 64, 128, 256)
COMPARED = 64  # pixels a side at which two drawings are compared: every size then has the same samples
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'viewBox="{x} {y} {side} {side}">{body}</svg>'
)
_OUTSIDE = re.compile(r"""(href\s*=\s*["'](?!\#|data:))|(url\(\s*["']?(?!\#))|<!|<\?""", re.IGNORECASE)


@dataclass(frozen=True)
class Drawing:
    """One picture of a character; `png` is RGB, square, on white."""

    package: str
    icon: str
    character: Character
    png: bytes


def draw_all(icons: Icons, named: dict[str, Character], side: int, counts: Counter) -> Iterator[Drawing]:
    """Drawings of all named icons in Unicode's order, `side` pixels a side; `counts` gets what is left out, and why.

    Of icons that look the same (two names of one flag) the first is kept, and of those of one character too.
    """
    seen: set[bytes] = set()
    drawn: set[str] = set()
    for icon, character in sorted(named.items(), key=lambda item: (item[1].order, item[0])):
        if character.name in drawn:
            counts["same character"] += 1
            continue
        svg = svg_of(icons, icon)
        if svg is None:
            counts["refers to other files"] += 1
            continue
        try:
            picture = draw(svg, max(side, COMPARED))
        except ValueError:
            counts["cannot be drawn"] += 1
            continue
        compared = picture.reduce(picture.width // COMPARED).tobytes()
        if compared in seen:
            counts["same picture"] += 1
            continue
        seen.add(compared)
        drawn.add(character.name)
        counts["drawn"] += 1
        yield Drawing(icons.package, icon, character, _png(picture.reduce(picture.width // side)))


def svg_of(icons: Icons, icon: str) -> str | None:
    """The icon as a file of its own, in the middle of a square; None when it refers to other files."""
    data = icons.data
    each = data["icons"][icon]
    if _OUTSIDE.search(each["body"]):
        return None
    left, top, width, height = (
        each.get(key, data.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    return _SVG.format(x=left - (side - width) / 2, y=top - (side - height) / 2, side=side, body=each["body"])


def draw(svg: str, side: int) -> Image.Image:
    """RGB picture; `ValueError` when resvg cannot draw it."""
    try:
        import resvg_py
    except ImportError:
        raise UserError("resvg_py draws the icons and is not installed: pip install 'mcl_clip[study]'") from None
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, background="#ffffff", skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(drawn))).convert("RGB")


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
