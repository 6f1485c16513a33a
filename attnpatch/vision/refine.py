"""A picture without what a map leaves out: masked, cut to what is left, and magnified."""

from __future__ import annotations

from typing import Any

import numpy as np

Box = tuple[int, int, int, int]


def top_mask(values: np.ndarray, fraction: float) -> np.ndarray:
    """The `fraction` of pixels with the highest values, bool in the shape of `values`; equal ones are all in.

    Pixels without a value (-inf), which no image token sees, only count where everything is kept.
    """
    if fraction == 1:
        return np.ones(values.shape, dtype=bool)
    known = values[np.isfinite(values)]
    count = max(1, round(fraction * known.size))
    return values >= np.partition(known, known.size - count)[known.size - count]


def largest_parts(mask: np.ndarray, values: np.ndarray, keep: int | None) -> np.ndarray:
    """`mask` with the `keep` connected parts (8 neighbours) of the largest summed values; None: all of them."""
    if keep is None:
        return mask
    from scipy import ndimage

    parts, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    if count <= keep:
        return mask
    sums = ndimage.sum_labels(values, parts, index=np.arange(1, count + 1))
    order = np.argsort(-sums, kind="stable")[:keep] + 1
    return np.isin(parts, order)


def box_around(mask: np.ndarray) -> Box:
    """Left, top, right and bottom edge of what is True, in pixels; right and bottom are just outside."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def magnified(box: Box, size: tuple[int, int], most: float) -> tuple[int, int]:
    """Width and height of a crop made as large as the picture of `size`: the aspect is kept, the larger factor counts.

    most: the longer side ends at `most` times that of the picture, which thin crops would exceed.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    scale = max(size[0] / width, size[1] / height)
    scale = min(scale, most * max(size) / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def refined(picture: Any, mask: np.ndarray, box: Box, most: float) -> Any:
    """`picture` (PIL) black outside `mask`, cut to `box` and magnified."""
    from PIL import Image

    pixels = np.asarray(picture.convert("RGB")) * mask[..., None]
    cut = Image.fromarray(pixels.astype(np.uint8)).crop(box)
    return cut.resize(magnified(box, picture.size, most), Image.Resampling.BICUBIC)
