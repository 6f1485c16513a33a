"""Drawing: shapes as coverage masks of one cell of the grid, and scenes as noisy pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

GRID = 3  # cells per side
CELL = 16  # pixels per side of a cell
PIXELS = GRID * CELL
PATCH = 8  # pixels per side of a patch of the tower
NOISE = 0.15  # standard deviation of the pixel noise; pixels are in [0, 1]
MEAN, STD = 0.5, 0.25  # of all three channels, for the image processor

RGB = {
    "red": (0.9, 0.15, 0.15),
    "green": (0.15, 0.75, 0.2),
    "blue": (0.15, 0.25, 0.9),
    "yellow": (0.9, 0.85, 0.1),
}
_FINE = 4  # sub-samples per pixel and side


def _inside(shape: str, x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Whether points are inside a shape of radius r around 0 (y grows downwards)."""
    away = np.hypot(x, y)
    if shape == "circle":
        return away <= r
    if shape == "ring":
        return (away <= r) & (away >= 0.55 * r)
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) <= 0.85 * r
    if shape == "diamond":
        return np.abs(x) + np.abs(y) <= 1.15 * r
    if shape == "cross":
        return np.minimum(np.abs(x), np.abs(y)) <= 0.32 * r
    return (y <= 0.8 * r) & (np.abs(x) <= 0.58 * (y + r))  # triangle, tip up


@lru_cache(maxsize=1024)
def mask(shape: str, right: int, down: int, radius: int) -> np.ndarray:
    """How much of every pixel of a cell a shape covers, [CELL, CELL] in [0, 1].

    Args:
        shape: one of the six.
        right, down: its centre, in pixels from the centre of the cell.
        radius: in pixels.
    """
    steps = (np.arange(CELL * _FINE) + 0.5) / _FINE - CELL / 2
    x, y = np.meshgrid(steps - right, steps - down)
    inside = _inside(shape, x, y, radius) & (np.maximum(np.abs(x), np.abs(y)) <= radius)
    return inside.reshape(CELL, _FINE, CELL, _FINE).mean((1, 3))


def draw(objects, background: float, rng: np.random.Generator, noise: float = NOISE) -> np.ndarray:
    """Pixels of a scene, [PIXELS, PIXELS, 3] in uint8.

    Args:
        objects: what `scenes.Thing` describes; each stands in its own cell.
        background: grey level.
        rng: of the noise.
        noise: its standard deviation.
    """
    image = np.full((PIXELS, PIXELS, 3), background)
    for thing in objects:
        top, left = (CELL * index for index in divmod(thing.cell, GRID))
        cover = thing.contrast * mask(thing.shape, thing.right, thing.down, thing.radius)[:, :, None]
        cell = image[top : top + CELL, left : left + CELL]
        cell += cover * (np.array(RGB[thing.colour]) - cell)
    image += noise * rng.standard_normal(image.shape, dtype=np.float32)
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8)
