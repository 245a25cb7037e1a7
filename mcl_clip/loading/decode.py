"""Image bytes to uint8 RGB tensors, on torchvision's fast path where its result is Pillow's."""

import io
import struct
import warnings

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.io import ImageReadMode, decode_jpeg, decode_png

MAX_PIXELS = 178_956_970  # twice Image.MAX_IMAGE_PIXELS, where Pillow itself refuses
# Others are no pictures of a data set, and Pillow starts Ghostscript for one of them, EPS.
PIL_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class DecodeError(ValueError):
    """A sample that gives no image (or no caption)."""


def decode_rgb(data: bytes) -> tuple[torch.Tensor, bool]:
    """(uint8 [3, height, width], whether the fast path decoded it) of an encoded image.

    The fast path takes 8-bit gray, YCbCr and RGB JPEG and 8-bit opaque PNG; everything else of `PIL_FORMATS`
    falls back to Pillow, as `convert("RGB")` gives it. Raises `DecodeError` for what neither can decode.
    """
    try:
        if _is_plain_jpeg(data):
            return decode_jpeg(_as_tensor(data), mode=ImageReadMode.RGB), True
        if _is_plain_png(data):
            return decode_png(_as_tensor(data), mode=ImageReadMode.RGB), True
    except RuntimeError as error:
        raise DecodeError(str(error).splitlines()[0]) from None
    pixels = np.array(decode_pil(data))
    return torch.from_numpy(pixels).permute(2, 0, 1), False


def decode_pil(data: bytes) -> Image.Image:
    """The image as Pillow decodes it, converted to RGB; raises `DecodeError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=PIL_FORMATS).convert("RGB")
    except UnidentifiedImageError:  # its words hold an address, which is another one in every run
        raise DecodeError("no known format") from None
    except Exception as error:  # Pillow's plugins raise whatever a malformed file makes them run into
        raise DecodeError(f"{type(error).__name__}: {error}") from None


def _as_tensor(data):
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def jpeg_frame(data: bytes) -> tuple[int, int, int, int] | None:
    """(bits, height, width, components) of a JPEG; None for anything else."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_FRAMES:
            return struct.unpack_from(">BHHB", data, at + 4)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _is_plain_jpeg(data):
    """Whether these are the bytes of an 8-bit JPEG of 1 or 3 components and bearable size."""
    depth, height, width, components = jpeg_frame(data) or (0, 0, 0, 0)
    return depth == 8 and components in (1, 3) and 0 < height * width <= MAX_PIXELS


def _is_plain_png(data):
    """Whether these are the bytes of an 8-bit gray or RGB PNG without transparency and of bearable size."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 33:
        return False
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    header = data[: data.find(b"IDAT")]
    return depth == 8 and colour in (0, 2) and 0 < width * height <= MAX_PIXELS and b"tRNS" not in header
