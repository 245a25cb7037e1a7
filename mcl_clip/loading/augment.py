"""open_clip's transforms on uint8 tensors: crop first, resize the crop, normalise later on the device."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import center_crop

from mcl_clip.loading.decode import decode_pil, decode_rgb
from mcl_clip.loading.long_images import centre_of_resized, is_long
from mcl_clip.openclip.transforms import AugmentationCfg, PreprocessCfg, image_transform_v2, merge_preprocess_dict

WORDS = 24  # 64-bit random words a sample may use: two for each of ten tries, two for the corner
_TRIES = 10
_SLOW = ("color_jitter_prob", "gray_scale_prob", "use_timm")


@dataclass(frozen=True)
class TrainTransform:
    """RandomResizedCrop of open_clip's training transform (torchvision's geometry), bicubic, antialiased.

    Called with encoded bytes and WORDS uint64 random words; gives (uint8 [3, H, W], whether the fast decoder
    was used). scale: range of the crop's share of the area; ratio: range of its width over its height. mean
    and std belong to the normalisation that follows on the device.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    dtype = torch.uint8

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it gives."""
        return (3, *self.size)

    def __call__(self, data: bytes, words: np.ndarray) -> tuple[torch.Tensor, bool]:
        image, fast = decode_rgb(data)
        uniforms = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        box = crop_box(image.shape[1], image.shape[2], self.scale, self.ratio, uniforms.tolist())
        top, left, height, width = box
        return resize(image[:, top : top + height, left : left + width], self.size, "bicubic"), fast


@dataclass(frozen=True)
class EvalTransform:
    """open_clip's evaluation transform: resize the shortest or longest side, or squash; then the centre.

    Called like `TrainTransform`; the random words are not used.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    fill_color: int = 0
    dtype = torch.uint8

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it gives."""
        return (3, *self.size)

    def __call__(self, data: bytes, words: np.ndarray | None = None) -> tuple[torch.Tensor, bool]:
        image, fast = decode_rgb(data)
        height, width = image.shape[1:]
        in_part = is_long(height, width)
        if self.resize_mode == "squash":
            if in_part and height > width:  # or the kernel widens every row before it drops most
                image = resize(image, (self.size[0], width), self.interpolation)
            return resize(image, self.size, self.interpolation), fast
        if self.resize_mode == "shortest" and self.size[0] == self.size[1]:
            short, long = sorted((height, width))
            target = (self.size[0], int(self.size[0] * long / short))
            target = target if height <= width else target[::-1]
            if in_part:
                return centre_of_resized(image, target, self.size, self.interpolation), fast
            image = resize(image, target, self.interpolation)
            return center_crop(image, list(self.size)), fast
        across = (height / self.size[0], width / self.size[1])
        longest = self.resize_mode == "longest"
        factor = max(across) if longest else min(across)
        mode = self.interpolation if longest else "bicubic"
        target = max(round(height / factor), 1), max(round(width / factor), 1)
        if in_part and not longest:
            return centre_of_resized(image, target, self.size, mode), fast
        image = resize(image, target, mode)
        return _centre(image, self.size, self.fill_color), fast


@dataclass(frozen=True)
class PilTransform:
    """Any transform from a PIL image to a float [3, H, W] tensor, fed with the sample's own random state.

    Called like `TrainTransform`. Slower; it is open_clip's own path, and takes the augmentations the fast one
    lacks.
    """

    transform: Callable[[Any], torch.Tensor]
    size: tuple[int, int]
    mean = (0.0, 0.0, 0.0)  # of what it gives: it normalises itself
    std = (1.0, 1.0, 1.0)
    dtype = torch.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it gives."""
        return (3, *self.size)

    def __call__(self, data: bytes, words: np.ndarray) -> tuple[torch.Tensor, bool]:
        image = decode_pil(data)
        states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
        try:
            random.seed(int(words[0]))
            np.random.seed(int(words[0]) >> 32)
            torch.random.default_generator.manual_seed(int(words[0]) >> 1)
            return self.transform(image), False
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.random.set_rng_state(states[2])


class Transform(Protocol):
    """What reads an image: bytes and a sample's random words to (tensor of `shape`, whether decoded fast)."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def mean(self) -> tuple[float, ...]: ...

    @property
    def std(self) -> tuple[float, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __call__(self, data: bytes, words: np.ndarray) -> tuple[torch.Tensor, bool]: ...


def train_transform(
    preprocess_cfg: Mapping[str, Any] | PreprocessCfg,
    aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None,
) -> TrainTransform | PilTransform:
    """The fast training transform for open_clip's configuration, or open_clip's own where that lacks a step.

    Like open_clip without timm, only `scale` of the crop counts and the interpolation is bicubic. Colour
    jitter, random gray and timm's augmentations give a `PilTransform`.
    """
    cfg, aug = preprocess_config(preprocess_cfg), _augmentation(aug_cfg)
    if any(getattr(aug, name) for name in _SLOW):
        return pil_train_transform(cfg, aug)
    return TrainTransform(size_pair(cfg.size), tuple(cfg.mean), tuple(cfg.std), scale=tuple(aug.scale))


def pil_train_transform(
    preprocess_cfg: Mapping[str, Any] | PreprocessCfg,
    aug_cfg: Mapping[str, Any] | AugmentationCfg | None = None,
) -> PilTransform:
    """open_clip's own training transform, on PIL images."""
    cfg = preprocess_config(preprocess_cfg)
    transform = image_transform_v2(cfg, is_train=True, aug_cfg=_augmentation(aug_cfg))
    return PilTransform(transform, size_pair(cfg.size))


def eval_transform(preprocess_cfg: Mapping[str, Any] | PreprocessCfg) -> EvalTransform:
    """The fast evaluation transform for open_clip's configuration."""
    cfg = preprocess_config(preprocess_cfg)
    mode = "bilinear" if cfg.interpolation == "bilinear" else "bicubic"
    return EvalTransform(size_pair(cfg.size), tuple(cfg.mean), tuple(cfg.std), cfg.resize_mode, mode, cfg.fill_color)


def crop_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], uniforms: list[float]
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of torchvision's RandomResizedCrop, from WORDS numbers in [0, 1)."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(_TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniforms[2 * attempt])
        aspect = math.exp(low + (high - low) * uniforms[2 * attempt + 1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = uniforms[2 * _TRIES] * (height - h + 1), uniforms[2 * _TRIES + 1] * (width - w + 1)
            return int(top), int(left), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def resize(image: torch.Tensor, size: tuple[int, int], mode: str) -> torch.Tensor:
    """Antialiased resize of a uint8 [3, h, w] tensor in integer arithmetic, like Pillow's."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    # Interleaved, as decoded; only with the strides of a whole batch does the kernel take its fast path for that.
    pixels = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    return F.interpolate(pixels, size=tuple(size), mode=mode, antialias=True)[0]


def _centre(image, size, fill):
    """The centre of an image, padded with `fill` where the image is smaller, rounding as open_clip does."""
    padding = [max(wanted - have, 0) for wanted, have in zip(size, image.shape[1:], strict=True)]
    sides = (padding[1] // 2, (padding[1] + 1) // 2, padding[0] // 2, (padding[0] + 1) // 2)
    image = F.pad(image, sides, value=fill)
    top, left = (round((have - wanted) / 2) for wanted, have in zip(size, image.shape[1:], strict=True))
    return image[:, top : top + size[0], left : left + size[1]]


def preprocess_config(cfg: Mapping[str, Any] | PreprocessCfg) -> PreprocessCfg:
    """open_clip's preprocessing with its defaults filled in."""
    return cfg if isinstance(cfg, PreprocessCfg) else PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), dict(cfg)))


def _augmentation(cfg):
    return cfg if isinstance(cfg, AugmentationCfg) else AugmentationCfg(**(cfg or {}))


def size_pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    """(height, width) of open_clip's image size."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
