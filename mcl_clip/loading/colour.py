"""Colour changes as of torchvision's ColorJitter, on float arrays [3, H, W] of 0 to 255, which they may change."""

from itertools import permutations

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view

ORDERS = tuple(permutations(range(4)))
_LEAST = np.float32(1e-6)  # of what is divided by: where there is no chroma the dividend is zero
_WEIGHTS = np.array([0.2989, 0.587, 0.114], np.float32)  # torchvision's


def gray(image: np.ndarray) -> np.ndarray:
    """[H, W], the luma; not as a product of matrices, for which numpy would start threads in every worker."""
    red, green, blue = image
    luma = red * _WEIGHTS[0]
    luma += green * _WEIGHTS[1]
    luma += blue * _WEIGHTS[2]
    return luma


def jitter(image: np.ndarray, factors: tuple[float, float, float, float], order: tuple[int, ...]) -> np.ndarray:
    """Brightness, contrast, saturation and hue by their factors, in an order of these four; hue in turns."""
    changes = (_brighten, _contrast, _saturate, shift_hue)
    for which in order:
        image = changes[which](image, factors[which])
    return image


def shift_hue(image: np.ndarray, turns: float) -> np.ndarray:
    """The hue of HSV turned by -1/2 to 1/2."""
    red, green, blue = image
    value = image.max(0)
    base = image.min(0)
    chroma = value - base
    inverse = 1 / np.maximum(chroma, _LEAST)
    hue = (red - green) * inverse
    hue += 4
    np.copyto(hue, (blue - red) * inverse + 2, where=value == green)
    np.copyto(hue, (green - blue) * inverse, where=value == red)
    hue += np.float32(6 * turns)
    hue -= 6 * np.floor(hue / 6)
    shares = np.empty_like(image)
    np.subtract(np.abs(hue - 3), 1, out=shares[0])
    np.subtract(2, np.abs(hue - 2), out=shares[1])
    np.subtract(2, np.abs(hue - 4), out=shares[2])
    shares.clip(0, 1, out=shares)
    shares *= chroma
    shares += base
    return shares


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur; what lies outside has no weight. As products of matrices, by torch, which has
    one thread in a worker: half of Pillow's time at 96 pixels, as much at 224.
    """
    height, width = image.shape[1:]
    rows = _gaussian(height, sigma)
    columns = rows if width == height else _gaussian(width, sigma)
    sideways = torch.from_numpy(image).reshape(-1, width) @ columns.T
    return torch.matmul(rows, sideways.view(image.shape)).numpy()


def _gaussian(side: int, sigma: float) -> torch.Tensor:
    """[side, side], the weights of every pixel of a line for every other."""
    weights = np.exp(np.arange(1 - side, side, dtype=np.float32) ** 2 * np.float32(-0.5 / sigma**2))
    weights[weights < _LEAST] = 0  # products of denormal numbers are slow
    matrix = sliding_window_view(weights, side)[::-1]
    return torch.from_numpy(matrix / matrix.sum(1, keepdims=True))


def _brighten(image: np.ndarray, factor: float) -> np.ndarray:
    image *= np.float32(factor)
    return image.clip(0, 255, out=image)


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    mean = gray(image).mean() * np.float32(1 - factor)
    image *= np.float32(factor)
    image += mean
    return image.clip(0, 255, out=image)


def _saturate(image: np.ndarray, factor: float) -> np.ndarray:
    luma = gray(image) * np.float32(1 - factor)
    image *= np.float32(factor)
    image += luma
    return image.clip(0, 255, out=image)
