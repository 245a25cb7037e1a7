"""Pictures of one object with a shape, a colour and a texture, ten values each, rotated and placed at random.

After Trifeature (Hermann & Lampinen 2020, arXiv 2006.12433), drawn anew for 32 pixels: signed distances on the grid.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

SIDE = 32
RADIUS = 9.0
GROUND = 60.0
NOISE = 4.0
TURN = np.pi / 4  # the most that shape and texture are turned, each by itself
SUPERSAMPLED = 2  # in each direction


def render(values: np.ndarray, contrast: float, rng: np.random.Generator) -> np.ndarray:
    """Images uint8 [N, 3, 32, 32] of value indices int [N, 3] (shape, colour, texture).

    contrast: how much darker the dark parts of a texture are. `rng` draws places, turns, phases and noise.
    """
    count = len(values)
    reach = SIDE / 2 - RADIUS
    center = rng.uniform(-reach, reach, (2, count, 1, 1)).astype(np.float32)
    turns = rng.uniform(-TURN, TURN, (2, count, 1, 1)).astype(np.float32)
    phase = rng.uniform(0, 60, (2, count, 1, 1)).astype(np.float32)
    grid = ((np.arange(SIDE * SUPERSAMPLED) + 0.5) / SUPERSAMPLED - SIDE / 2).astype(np.float32)
    x, y = grid[None, None, :] - center[0], grid[None, :, None] - center[1]
    inside, dark = np.zeros((2, count, SIDE, SIDE), np.float32)
    for number, shape in enumerate(SHAPES.values()):
        mine = values[:, 0] == number
        u, v = _turned(x[mine] / RADIUS, y[mine] / RADIUS, turns[0][mine])
        inside[mine] = _reduced((shape(u, v) < 0).astype(np.float32))
    for number, texture in enumerate(TEXTURES.values()):
        mine = values[:, 2] == number
        u, v = _turned(x[mine], y[mine], turns[1][mine])
        dark[mine] = _reduced(texture(u + phase[0][mine], v + phase[1][mine]).astype(np.float32))
    colour = np.array(list(COLOURS.values()), np.float32)[values[:, 1]][:, :, None, None]
    colour = colour * (1 - contrast * dark[:, None])
    image = GROUND + inside[:, None] * (colour - GROUND)
    image += rng.standard_normal(image.shape, np.float32) * NOISE
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _turned(x: np.ndarray, y: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _reduced(fine: np.ndarray) -> np.ndarray:
    return fine.reshape(len(fine), SIDE, SUPERSAMPLED, SIDE, SUPERSAMPLED).mean((2, 4))


def _convex(*corners: tuple[float, float]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Negative inside a convex polygon whose corners go clockwise, v growing downwards."""

    def distance(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        edges = zip(corners, (*corners[1:], corners[0]), strict=True)
        sides = [((q - b) * (u - a) - (p - a) * (v - b)) / np.hypot(p - a, q - b) for (a, b), (p, q) in edges]
        return np.maximum.reduce(sides)

    return distance


def _regular(corners: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    angles = 2 * np.pi * np.arange(corners) / corners - np.pi / 2
    return _convex(*((float(np.cos(angle)), float(np.sin(angle))) for angle in angles))


def _box(u: np.ndarray, v: np.ndarray, left: float, right: float, top: float, bottom: float) -> np.ndarray:
    return np.maximum(np.maximum(left - u, u - right), np.maximum(top - v, v - bottom))


def _plus(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_box(u, v, -0.3, 0.3, -0.9, 0.9), _box(u, v, -0.9, 0.9, -0.3, 0.3))


def _tee(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_box(u, v, -0.25, 0.25, -0.7, 0.9), _box(u, v, -0.7, 0.7, -0.7, -0.25))


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    fifth = 2 * np.pi / 5
    angle = np.abs(np.mod(np.arctan2(u, -v) + fifth / 2, fifth) - fifth / 2)
    radius = np.hypot(u, v)
    p, q = 0.42 * np.cos(fifth / 2), 0.42 * np.sin(fifth / 2)  # a corner between two points
    return q * (radius * np.cos(angle) - 1) + (1 - p) * radius * np.sin(angle)


def _five_squares(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.minimum(_box(u, v, -0.2, 0.2, -0.2, 0.2), _box(np.abs(u), np.abs(v), 0.3, 0.7, 0.3, 0.7))


def _bricks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.mod(y, 4) < 1.2) | (np.mod(x + 3 * np.floor(y / 4), 6) < 1.2)


def _noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.mod(np.sin(12.9898 * np.floor(x / 1.5) + 78.233 * np.floor(y / 1.5)) * 43758.547, 1) < 0.4


SHAPES = {
    "triangle": _regular(3),
    "square": _convex((-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)),
    "plus": _plus,
    "circle": lambda u, v: np.hypot(u, v) - 0.85,
    "tee": _tee,
    "rhombus": _convex((0, -1), (0.55, 0), (0, 1), (-0.55, 0)),
    "pentagon": _regular(5),
    "star": _star,
    "five squares": _five_squares,
    "trapezoid": _convex((-0.35, -0.5), (0.35, -0.5), (0.85, 0.5), (-0.85, 0.5)),
}
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 225),
    "yellow": (240, 225, 50),
    "pink": (245, 150, 190),
    "cyan": (60, 220, 225),
    "purple": (140, 60, 190),
    "ocean": (40, 130, 150),
    "orange": (245, 140, 30),
    "white": (240, 240, 240),
}
TEXTURES = {
    "solid": lambda x, y: np.zeros_like(x),
    "stripes": lambda x, y: np.mod(x, 4) < 2,
    "grid": lambda x, y: (np.mod(x, 5) < 1.5) | (np.mod(y, 5) < 1.5),
    "dots": lambda x, y: np.hypot(np.mod(x, 4) - 2, np.mod(y, 4) - 2) < 1.3,
    "checks": lambda x, y: (np.mod(x, 6) < 3) ^ (np.mod(y, 6) < 3),
    "zigzags": lambda x, y: np.mod(y + np.abs(np.mod(x, 6) - 3), 4) < 2,
    "triangles": lambda x, y: np.abs(np.mod(x, 6) - 3) < 0.6 * np.mod(y, 5),
    "bricks": _bricks,
    "rain": lambda x, y: (np.mod(x, 3) < 1.2) & (np.mod(y + 3.5 * np.floor(x / 3), 7) < 4),
    "noise": _noise,
}
FEATURES: dict[str, dict[str, Any]] = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES}
