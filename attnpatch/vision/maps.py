"""Where in the picture each image token looks, and maps of values per token at any size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from attnpatch.patching.errors import AttnPatchError, UnsupportedModelError

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the picture
_SQUARES = ("llava", "vipllava", "paligemma", "gemma3")  # model types: one square of tokens per picture
_GRIDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # any rectangle, as image_grid_thw says
_TILED = ("internvl", "idefics3", "smolvlm")  # tiles line by line, then the whole picture once more
_CROPS = ("llava_next", "llava_onevision")  # the whole picture, then crops as one rectangle with line ends


@dataclass(frozen=True)
class Tile:
    """A rectangle of image tokens.

    tokens: their numbers among the picture's, `[rows, columns]`; box: what they see of it.
    """

    tokens: torch.Tensor
    box: Box

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width of what one token sees, in pixels."""
        rows, columns = self.tokens.shape
        return (self.box[3] - self.box[1]) / rows, (self.box[2] - self.box[0]) / columns


def tiles_of(model: torch.nn.Module, processor: Any, inputs: dict[str, Any], size: tuple[int, int]) -> list[Tile]:
    """How the image tokens of a prompt with one picture lie on it.

    inputs: what the processor made of the picture; size: its width and height. Raises UnsupportedModelError where the
    model's way is not known, AttnPatchError for inputs that do not fit it.
    """
    family = getattr(model.config, "model_type", "")
    count = int((inputs["input_ids"][0] == model.config.image_token_id).sum())
    whole = (0.0, 0.0, float(size[0]), float(size[1]))
    if family in _SQUARES:
        _require(len(inputs["pixel_values"]) == 1, "was cut into several (pan and scan); turn that off")
        return [_square(0, count, _seen(processor.image_processor, size))]
    if family in _GRIDS:
        _, rows, columns = (int(value) for value in inputs["image_grid_thw"][0])
        merged = model.config.vision_config.spatial_merge_size
        _require(rows * columns == count * merged**2, f"has a grid of {rows} x {columns} patches for {count} tokens")
        return [Tile(torch.arange(count).view(rows // merged, columns // merged), whole)]
    if family in _TILED:
        pixels = inputs["pixel_values"]
        return _tiled(count, len(pixels if family == "internvl" else pixels[0]), size)
    if family in _CROPS:
        return _cropped(model, inputs, count, whole)
    known = ", ".join(sorted((*_SQUARES, *_GRIDS, *_TILED, *_CROPS)))
    raise UnsupportedModelError(
        f"which part of the picture an image token of {type(model).__name__} (model type {family!r}) sees is not "
        f"known, so its attention cannot be drawn. Known model types: {known}."
    )


def _require(fits: bool, found: str) -> None:
    if not fits:
        raise AttnPatchError(
            f"the picture {found}, so its tokens cannot be placed. Give one picture per prompt, "
            "made by the model's own processor."
        )


def _square(first: int, count: int, box: Box) -> Tile:
    side = math.isqrt(count)
    _require(side * side == count and count > 0, f"became {count} image tokens, which form no square")
    return Tile(torch.arange(first, first + count).view(side, side), box)


def _seen(reader: Any, size: tuple[int, int]) -> Box:
    """What of a picture is left when `reader`, an image processor, has made a square of it; padding lies outside."""
    width, height = size
    shortest, crop = _length(reader, "size", "shortest_edge"), _length(reader, "crop_size", "height")
    if getattr(reader, "do_pad", False):
        side: float = max(width, height)
    elif getattr(reader, "do_center_crop", False) and shortest and crop:
        side = min(width, height) * crop / shortest
    else:  # squeezed to the size of the tower
        return (0.0, 0.0, float(width), float(height))
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def _length(reader: Any, name: str, edge: str) -> int | None:
    found = getattr(reader, name, None)
    return found.get(edge) if isinstance(found, dict) else getattr(found, edge, None)


def _tiled(count: int, tiles: int, size: tuple[int, int]) -> list[Tile]:
    width, height = size
    each, rest = divmod(count, tiles)
    _require(not rest, f"became {count} image tokens in {tiles} tiles")
    whole = (0.0, 0.0, float(width), float(height))
    if tiles == 1:
        return [_square(0, each, whole)]
    # Of all ways to lay so many tiles out, the processors take the one whose shape is closest to the picture's.
    shapes = [((tiles - 1) // columns, columns) for columns in range(1, tiles) if not (tiles - 1) % columns]
    rows, columns = min(shapes, key=lambda one: abs(math.log(width / height * one[0] / one[1])))
    across, down = width / columns, height / rows
    found = []
    for number in range(tiles - 1):
        row, column = divmod(number, columns)
        box = (column * across, row * down, (column + 1) * across, (row + 1) * down)
        found.append(_square(number * each, each, box))
    return [*found, _square((tiles - 1) * each, each, whole)]


def _cropped(model: torch.nn.Module, inputs: dict[str, Any], count: int, whole: Box) -> list[Tile]:
    """LLaVA-NeXT and -OneVision: the model itself packs numbers instead of features, with -1 at the ends of lines."""
    host = next(module for module in model.modules() if hasattr(module, "image_newline"))
    vision = model.config.vision_config
    each = (vision.image_size // vision.patch_size) ** 2
    crops = inputs["pixel_values"].shape[1]
    numbers = torch.arange(crops * each, dtype=torch.float32).view(crops, each, 1)
    asked = {"vision_feature_select_strategy": "default"} if model.config.model_type == "llava_next" else {}
    if not asked:
        asked = {"vision_aspect_ratio": getattr(model.config, "vision_aspect_ratio", "anyres_max_9")}
    sizes = inputs["image_sizes"].cpu()
    packed, _ = type(host).pack_image_features(host, [numbers], sizes, image_newline=torch.tensor([-1.0]), **asked)
    flat = packed[0].flatten()
    _require(len(flat) == count, f"became {count} image tokens instead of {len(flat)}")
    found = [_square(0, each, whole)]
    if crops > 1:
        columns = int((flat[each:] == -1).int().argmax())
        lines = torch.arange(each, count).view(-1, columns + 1)
        found.append(Tile(lines[:, :columns], whole))
    return found


def region_of(tiles: list[Tile]) -> Box:
    """The rectangle around all tiles."""
    left, top = (min(tile.box[edge] for tile in tiles) for edge in (0, 1))
    right, bottom = (max(tile.box[edge] for tile in tiles) for edge in (2, 3))
    return (left, top, right, bottom)


def grid_map(values: torch.Tensor, tiles: list[Tile], *, mass: bool = False) -> torch.Tensor:
    """`values` `[..., tokens]` as a map `[..., gh, gw]` over `region_of(tiles)`, in cells of the finest tile.

    Where tiles overlap it is the mean of them. mass: the values are shares that add up, so that a token's is spread
    over the cells it sees, and shares of the same place are added.
    """
    left, top, right, bottom = region_of(tiles)
    down, across = (min(tile.cell[axis] for tile in tiles) for axis in (0, 1))
    shape = (round((bottom - top) / down), round((right - left) / across))
    lead = values.shape[:-1]
    total = torch.zeros(*lead, *shape, dtype=torch.float32)
    covered = torch.zeros(shape)
    for tile in tiles:
        rows = slice(round((tile.box[1] - top) / down), round((tile.box[3] - top) / down))
        columns = slice(round((tile.box[0] - left) / across), round((tile.box[2] - left) / across))
        own = values.float().cpu()[..., tile.tokens]
        part = resized(own, (rows.stop - rows.start, columns.stop - columns.start))
        if mass:
            part = part * (tile.tokens.numel() / (part.shape[-2] * part.shape[-1]))
        total[..., rows, columns] += part
        covered[rows, columns] += 1
    return total if mass else total / covered.clamp(min=1)


def resized(values: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """`values` `[..., h, w]` at another size, bilinear."""
    if tuple(values.shape[-2:]) == shape:
        return values
    flat = values.reshape(1, -1, *values.shape[-2:]).float()
    found = torch.nn.functional.interpolate(flat, shape, mode="bilinear", align_corners=False)
    return found.reshape(*values.shape[:-2], *shape)


def on_picture(values: torch.Tensor, region: Box, size: tuple[int, int], outside: float) -> torch.Tensor:
    """A map `[gh, gw]` of `region` on the pixels of a picture of (width, height) `size`: `[height, width]`.

    outside: the value where the region does not reach.
    """
    width, height = size
    left, top, right, bottom = (round(edge) for edge in region)
    found = torch.full((height, width), outside)
    large = resized(values, (max(bottom - top, 1), max(right - left, 1)))
    rows, columns = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
    found[rows, columns] = large[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return found
