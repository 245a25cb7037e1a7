"""Draw images from feature values: signed distances on the pixel grid, vectorised over images."""

import numpy as np

from demo.features import FEATURES, NAMES

SIDE = 32
COLORS = {
    "red": (215, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (240, 225, 50),
    "green": (50, 165, 60),
    "blue": (50, 90, 225),
    "purple": (140, 60, 190),
}
BACKGROUNDS = {
    "black": (20, 20, 20),
    "gray": (130, 130, 130),
    "white": (235, 235, 235),
    "brown": (110, 75, 45),
}
CENTERS = {"top": (0, -1), "bottom": (0, 1), "left": (-1, 0), "right": (1, 0)}
RADIUS = {"small": 6.5, "large": 10.0}
NOISE = 6.0


def render(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images uint8 [N, 32, 32, 3] of value indices int [N, F]; `rng` draws jitter, tilt, shade and noise."""
    column = {name: values[:, i] for i, name in enumerate(NAMES)}
    count = len(values)
    radius = _lookup("size", RADIUS)[column["size"]] * rng.uniform(0.92, 1.08, count)
    reach = (SIDE / 2 - 1 - radius).clip(0)
    center = _lookup("position", CENTERS)[column["position"]] * reach[:, None]
    center = center * rng.uniform(0.8, 1, (count, 1)) + rng.uniform(-0.8, 0.8, (count, 2))
    angle = rng.normal(0, 0.08, count)
    grid = (np.arange(SIDE) + 0.5 - SIDE / 2).astype(np.float32)
    x = grid[None, None, :] - center[:, 0, None, None].astype(np.float32)
    y = grid[None, :, None] - center[:, 1, None, None].astype(np.float32)
    cos, sin = (
        np.cos(angle).astype(np.float32)[:, None, None],
        np.sin(angle).astype(np.float32)[:, None, None],
    )
    scale = radius.astype(np.float32)[:, None, None]
    u, v = (cos * x + sin * y) / scale, (-sin * x + cos * y) / scale
    inside = np.empty((count, SIDE, SIDE), np.float32)
    for index, name in enumerate(FEATURES[NAMES.index("shape")].values):
        chosen = column["shape"] == index
        distance = SHAPES[name](u[chosen], v[chosen]) * scale[chosen]
        inside[chosen] = np.clip(0.5 - distance, 0, 1)
    phase = rng.uniform(0, 4, (count, 2)).astype(np.float32)[:, :, None, None]
    dark = np.zeros_like(inside)
    for index, name in enumerate(FEATURES[NAMES.index("texture")].values):
        chosen = column["texture"] == index
        dark[chosen] = TEXTURES[name](x[chosen] + phase[chosen, 0], y[chosen] + phase[chosen, 1])
    shade = rng.uniform(0.85, 1.1, (count, 1, 1, 1)).astype(np.float32)
    color = _lookup("color", COLORS)[column["color"]][:, None, None, :] * shade
    ground = _lookup("background", BACKGROUNDS)[column["background"]][:, None, None, :]
    color = color * (1 - 0.65 * dark[..., None])
    image = ground + inside[..., None] * (color - ground)
    image += rng.standard_normal(image.shape, np.float32) * NOISE
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _lookup(feature: str, table: dict) -> np.ndarray:
    return np.array([table[value] for value in FEATURES[NAMES.index(feature)].values], np.float32)


def _box(u, v, left, right, top, bottom):
    """Distance to an axis-aligned box (exact inside, the larger axis outside); v grows downwards."""
    return np.maximum(np.maximum(left - u, u - right), np.maximum(top - v, v - bottom))


def _disc(u, v, cu, cv, radius):
    return np.hypot(u - cu, v - cv) - radius


def _wedge(u, v, top, bottom, half):
    """Isosceles triangle with its tip at `top` and a base of 2 * half at `bottom`."""
    slope = half / (bottom - top)
    side = (np.abs(u) - slope * (v - top)) / np.hypot(1, slope)
    return np.maximum(side, v - bottom)


def _triangle(u, v):
    return _wedge(u, v, -1.0, 0.8, 0.95)


def _heart(u, v):
    lobes = _disc(np.abs(u), v, 0.45, -0.42, 0.48)
    return np.minimum(lobes, _wedge(u, -v, -0.95, 0.45, 0.93))


def _square(u, v):
    return _box(u, v, -0.8, 0.8, -0.8, 0.8)


def _cross(u, v):
    return np.minimum(_box(u, v, -0.25, 0.25, -0.95, 0.95), _box(u, v, -0.8, 0.8, -0.55, -0.05))


def _horseshoe(u, v):
    sides = _box(np.abs(u), v, 0.4, 0.9, -0.9, 0.9)
    return np.minimum(sides, _box(u, v, -0.9, 0.9, 0.4, 0.9))


def _plain(x, y):
    return np.zeros_like(x)


def _striped(x, y):
    return (np.mod(x, 4) < 2).astype(np.float32)


def _dotted(x, y):
    return (np.hypot(np.mod(x, 4) - 2, np.mod(y, 4) - 2) < 1.25).astype(np.float32)


def _checkered(x, y):
    return ((np.mod(x, 6) < 3) ^ (np.mod(y, 6) < 3)).astype(np.float32)


SHAPES = {
    "triangle": _triangle,
    "heart": _heart,
    "square": _square,
    "cross": _cross,
    "horseshoe": _horseshoe,
}
TEXTURES = {"plain": _plain, "striped": _striped, "dotted": _dotted, "checkered": _checkered}
