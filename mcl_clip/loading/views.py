"""Two random views of an image: decoded once, cropped twice, then flipped and changed in colour, each by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mcl_clip.loading import colour
from mcl_clip.loading.augment import WORDS, crop_box, preprocess_config, resize, size_pair
from mcl_clip.loading.decode import decode_rgb
from mcl_clip.plan.permutation import mix

BLUR_FROM = 64
"""Pixels: smaller images are not blurred unless asked for."""


@dataclass(frozen=True)
class Augmentations:
    """How a view comes about, in this order; the defaults are lightly's for SimCLR.

    scale: range of a crop's share of the area. flip, jitter, gray, blur: probabilities; blur None: 0.5 from BLUR_FROM
    pixels on. strengths: of brightness, contrast, saturation and hue, as torchvision's ColorJitter takes them.
    sigma: range of the blur's standard deviation in pixels.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    jitter: float = 0.8
    strengths: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    gray: float = 0.2
    blur: float | None = None
    sigma: tuple[float, float] = (0.1, 2.0)


@dataclass(frozen=True)
class ViewsTransform:
    """Encoded bytes and a sample's random words to (uint8 [2, 3, H, W], whether the fast decoder was used).

    A view's random numbers depend on the sample's words and the view's number alone. Crops are torchvision's
    RandomResizedCrop, bilinear. mean and std belong to the normalisation that follows on the device.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentations: Augmentations = Augmentations()
    views: int = 2
    dtype = torch.uint8

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it gives."""
        return (self.views, 3, *self.size)

    def __call__(self, data: bytes, words: np.ndarray) -> tuple[torch.Tensor, bool]:
        image, fast = decode_rgb(data)
        return self.of_image(image, words), fast

    def of_image(self, image: torch.Tensor, words: np.ndarray) -> torch.Tensor:
        """The views of an image that is decoded, uint8 [3, height, width]."""
        return torch.stack([self._view(image, uniforms) for uniforms in _uniforms(words[0], self.views)])

    def _view(self, image: torch.Tensor, uniforms: np.ndarray) -> torch.Tensor:
        how, numbers = self.augmentations, iter(uniforms[WORDS:].tolist())
        top, left, height, width = crop_box(
            image.shape[1], image.shape[2], how.scale, (3 / 4, 4 / 3), uniforms[:WORDS].tolist()
        )
        view = resize(image[:, top : top + height, left : left + width], self.size, "bilinear").contiguous().numpy()
        if next(numbers) < how.flip:
            view = view[:, :, ::-1]
        is_jittered, order = next(numbers) < how.jitter, colour.ORDERS[int(next(numbers) * len(colour.ORDERS))]
        draws = [next(numbers) for _ in range(4)]
        is_gray, is_blurred, spread = next(numbers) < how.gray, next(numbers) < self._blur, next(numbers)
        if is_jittered or is_gray or is_blurred:
            pixels = np.array(view, np.float32, order="C")
            if is_jittered:
                pixels = colour.jitter(pixels, _factors(how.strengths, draws), order)
            if is_gray:
                pixels[:] = colour.gray(pixels)
            if is_blurred:
                pixels = colour.blur(pixels, how.sigma[0] + (how.sigma[1] - how.sigma[0]) * spread)
            view = np.rint(pixels, out=pixels).astype(np.uint8)
        return torch.from_numpy(np.ascontiguousarray(view))

    @property
    def _blur(self) -> float:
        if self.augmentations.blur is None:
            return 0.5 if min(self.size) >= BLUR_FROM else 0.0
        return self.augmentations.blur


def views_transform(preprocess_cfg: Mapping[str, Any], augmentations: Augmentations | None = None) -> ViewsTransform:
    """The transform for the size, mean and standard deviation of open_clip's preprocessing."""
    cfg = preprocess_config(preprocess_cfg)
    return ViewsTransform(size_pair(cfg.size), tuple(cfg.mean), tuple(cfg.std), augmentations or Augmentations())


def _uniforms(word: np.uint64, views: int) -> np.ndarray:
    """Numbers in [0, 1), a row a view."""
    of_view = mix(np.arange(1, views + 1, dtype=np.uint64) + word)
    words = mix(of_view[:, None] + np.arange(WORDS + 10, dtype=np.uint64))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _factors(strengths: tuple[float, float, float, float], draws: list[float]) -> tuple[float, float, float, float]:
    """Of brightness, contrast and saturation between 1 - strength (at least 0) and 1 + strength; of hue around 0."""
    brightness, contrast, saturation = (
        max(0.0, 1 - strength) + (1 + strength - max(0.0, 1 - strength)) * draw
        for strength, draw in zip(strengths[:3], draws[:3], strict=True)
    )
    return brightness, contrast, saturation, strengths[3] * (2 * draws[3] - 1)
