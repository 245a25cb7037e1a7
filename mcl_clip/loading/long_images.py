"""Images many times as long as wide: only what is kept of them is resized, for the whole may be any size.

Resized to a shorter side of 224, a PNG of 100 bytes that is 10,000 pixels long and one high is 2.2 million long.
"""

import math

import numpy as np
import torch
from PIL import Image

LONG = 8  # times; shorter images are resized as a whole, with the bits that they always had
_SUPPORT = 2  # pixels to either side that a bicubic filter reads, bilinear fewer
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def is_long(height: int, width: int) -> bool:
    """Whether an image is more than `LONG` times as long one way as the other."""
    return max(height, width) > LONG * min(height, width)


def centre_of_resized(image: torch.Tensor, whole: tuple[int, int], size: tuple[int, int], mode: str) -> torch.Tensor:
    """The centre of `size` that a uint8 [3, h, w] image would have once it is resized to `whole`, antialiased.

    By Pillow, which takes a box between pixels; within one level of the kernel that resizes whole images.
    """
    rows, top, bottom = _kept(image.shape[1], whole[0], size[0])
    columns, left, right = _kept(image.shape[2], whole[1], size[1])
    part = Image.fromarray(image[:, rows, columns].permute(1, 2, 0).contiguous().numpy())
    resized = part.resize(size[::-1], _FILTERS[mode], (left, top, right, bottom))
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def _kept(have: int, whole: int, size: int) -> tuple[slice, float, float]:
    """Along one side: the pixels that the filter reads, and where among them the part that is kept begins and ends."""
    corner, scale = round((whole - size) / 2), have / whole
    margin = math.ceil(_SUPPORT * max(scale, 1)) + 1
    begin, end = corner * scale, min((corner + size) * scale, have)
    first, last = max(math.floor(begin) - margin, 0), min(math.ceil(end) + margin, have)
    return slice(first, last), begin - first, end - first
