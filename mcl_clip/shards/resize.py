"""Pictures made smaller, once, before they are trained on: their shorter side to so many pixels."""

import io
import warnings
from dataclasses import dataclass
from typing import Any

from PIL import Image

from mcl_clip.errors import UserError

RESIZED = "resized"
FORMATS = ("JPEG", "PNG", "WEBP")
_KEPT_MODES, _WITH_ALPHA = ("L", "RGB"), ("LA", "La", "PA", "RGBA", "RGBa")
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Resize:
    """Pictures of a longer `side` encoded anew, in their own format; `quality`, 1 to 100, is JPEG's and WebP's."""

    side: int
    quality: int = 90

    def __post_init__(self) -> None:
        if self.side < 1:
            raise UserError(f"--mcl-resize {self.side}: give the pixels of the shorter side, 256 say")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--mcl-resize-quality {self.quality}: give 1 to 100")

    def __call__(self, data: bytes) -> tuple[bytes, str]:
        """(encoded image, what became of it); all but what is `RESIZED` keeps its bytes.

        What the training decoder makes of a picture stays the same picture: pixels lie as they are stored, beside their
        EXIF orientation and colour profile; other metadata goes. Of JPEG no more is decoded than twice the size needs.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                    reason = self._kept(image)
                    return (data, reason) if reason else (self._encoded(image), RESIZED)
        except Exception:  # Pillow's plugins raise whatever a malformed file makes them run into
            return data, "unreadable"

    def _kept(self, image: Image.Image) -> str | None:
        if getattr(image, "is_animated", False) and image.format != "MPO":  # of which the first is the picture
            return "animated"
        if "transparency" in image.info or image.mode in _WITH_ALPHA:
            return "with transparency"
        if image.mode not in (*_KEPT_MODES, "CMYK", "P"):
            return "of other than 8-bit colours"
        return None if min(image.size) > self.side else "small enough"

    def _encoded(self, image: Image.Image) -> bytes:
        width, height = image.size
        shorter = min(width, height)
        size = max(round(width * self.side / shorter), self.side), max(round(height * self.side / shorter), self.side)
        about: dict[str, Any] = {"quality": self.quality}
        if image.mode != "CMYK" and "icc_profile" in image.info:
            about["icc_profile"] = image.info["icc_profile"]
        if (orientation := image.getexif().get(_ORIENTATION, 1)) != 1:
            about["exif"] = Image.Exif()
            about["exif"][_ORIENTATION] = orientation
        image.draft(image.mode, (2 * size[0], 2 * size[1]))
        pixels = image if image.mode in _KEPT_MODES else image.convert("RGB")
        small, stream = pixels.resize(size, Image.Resampling.BICUBIC), io.BytesIO()
        small.info.clear()  # formats differ in what of it they would write
        small.save(stream, "JPEG" if image.format == "MPO" else image.format, **about)
        return stream.getvalue()
