"""One image file: its bytes as they are, or as PNG where WebDataset readers do not know its format."""

import io
import os
import stat
import struct
import warnings
from typing import NamedTuple

from PIL import Image

from mcl_clip.loading.decode import MAX_PIXELS, PIL_FORMATS, DecodeError, decode_pil, jpeg_frame
from mcl_clip.packing.rows import Skip

MAX_BYTES = 1 << 28
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}


class Picture(NamedTuple):
    """An encoded image; extension: one that WebDataset readers know; width, height: pixels as stored."""

    data: bytes
    extension: str
    width: int
    height: int


def read_picture(image: bytes | str | None) -> Picture:
    """The image file, given or at a path; only its header is decoded.

    JPEG, PNG and WebP keep their bytes; GIF, BMP, TIFF and PPM become PNG, without loss, of their first frame. Raises
    `Skip` for everything else.
    """
    if image is None:
        raise Skip("no image is given")
    data = image if isinstance(image, bytes) else read_file(image)
    if not data:
        raise Skip("the image is empty")
    extension, width, height = _header(data)
    if not 0 < width * height <= MAX_PIXELS:
        raise Skip(f"the image has more than {MAX_PIXELS} pixels")
    if extension:
        return Picture(data, extension, width, height)
    try:
        pixels, stream = decode_pil(data), io.BytesIO()
    except DecodeError:
        raise Skip("the image is broken") from None
    pixels.save(stream, "PNG")
    return Picture(stream.getvalue(), "png", *pixels.size)


def read_file(path: str) -> bytes:
    """The bytes of a regular file; `Skip` when there are none to be had."""
    if "://" in path[:10]:
        raise Skip("a URL; img2dataset fetches those and writes tars")
    try:
        # A pipe would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Skip("not a file")
            if status.st_size > MAX_BYTES:
                raise Skip(f"larger than {MAX_BYTES >> 20} MiB")
            data = os.read(descriptor, status.st_size)
            while len(data) < status.st_size and (more := os.read(descriptor, status.st_size - len(data))):
                data += more
            return data
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Skip("no such file") from None
    except (OSError, ValueError) as error:
        raise Skip(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _header(data: bytes) -> tuple[str | None, int, int]:
    """(extension, None where it must be encoded anew; width; height)."""
    frame = jpeg_frame(data)
    if frame:
        _, height, width, _ = frame
        return "jpg", width, height
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) > 24:
        return "png", *struct.unpack_from(">II", data, 16)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=PIL_FORMATS) as image:
                return _EXTENSIONS.get(image.format or ""), *image.size
    except Exception:  # Pillow's plugins raise whatever a malformed file makes them run into
        raise Skip("not an image (JPEG, PNG, WebP, GIF, BMP, TIFF or PPM)") from None
