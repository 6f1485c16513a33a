"""Which part of a picture each image token sees, family by family, and maps at other sizes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import attnpatch
from attnpatch.vision.maps import Tile, grid_map, on_picture, region_of, tiles_of
from tests import zoo
from tests.methods.vision.prompts import FAMILIES
from tests.vision.small import picture, processor, small_model

PLAIN = SimpleNamespace(image_processor=SimpleNamespace())
SINGLE = ["llava", "gemma3", "paligemma", "internvl", "idefics3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


@pytest.mark.parametrize("family", SINGLE)
def test_one_picture_is_one_square(family):
    (tile,) = tiles_of(zoo.build(family), PLAIN, zoo.image_prompt(family), (60, 30))
    assert tile.tokens.tolist() == [[0, 1], [2, 3]]
    assert tile.box == (0, 0, 60, 30)
    assert tile.cell == (15, 30)


def test_qwen_s_rectangle_is_that_of_its_grid():
    inputs = {"input_ids": torch.tensor([[1] + [zoo.IMAGE] * 6]), "image_grid_thw": torch.tensor([[1, 4, 6]])}
    (tile,) = tiles_of(zoo.build("qwen2_5_vl"), PLAIN, inputs, (60, 40))
    assert tile.tokens.tolist() == [[0, 1, 2], [3, 4, 5]]
    inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]])
    with pytest.raises(attnpatch.AttnPatchError, match="grid of 4 x 4 patches for 6 tokens"):
        tiles_of(zoo.build("qwen2_5_vl"), PLAIN, inputs, (60, 40))


@pytest.mark.parametrize("family", ["internvl", "idefics3"])
@pytest.mark.parametrize(("size", "grid"), [((90, 30), (1, 3)), ((60, 60), (2, 2)), ((20, 90), (3, 1))])
def test_tiles_lie_as_the_picture_s_shape_says_and_the_whole_comes_last(family, size, grid):
    rows, columns = grid
    tiles = rows * columns + 1
    pixels = torch.zeros(*((tiles,) if family == "internvl" else (1, tiles)), 3, 4, 4)
    inputs = {"input_ids": torch.tensor([[1] + [zoo.IMAGE] * 4 * tiles]), "pixel_values": pixels}
    found = tiles_of(zoo.build(family), PLAIN, inputs, size)
    assert len(found) == tiles
    assert found[-1].box == (0, 0, *size)
    assert found[-1].tokens.tolist() == [[4 * tiles - 4, 4 * tiles - 3], [4 * tiles - 2, 4 * tiles - 1]]
    wide, high = size[0] / columns, size[1] / rows
    assert [tile.box[:2] for tile in found[:-1]] == [(c * wide, r * high) for r in range(rows) for c in range(columns)]
    assert grid_map(torch.zeros(4 * tiles), found).shape == (2 * rows, 2 * columns)


def test_internvl_s_tiles_lie_as_its_own_processor_cuts_them():
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    model = zoo.build("internvl")
    for width in range(40, 2000, 130):
        columns, rows = get_optimal_tiled_canvas((448, width), (448, 448), 1, 12)
        tiles = rows * columns + (rows * columns > 1)
        inputs = {"input_ids": torch.full((1, 4 * tiles), zoo.IMAGE), "pixel_values": torch.zeros(tiles, 3, 4, 4)}
        found = tiles_of(model, PLAIN, inputs, (width, 448))
        assert found[0].box[2:] == pytest.approx((width / columns, 448 / rows))


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision"])
@pytest.mark.parametrize(("size", "shape"), [((56, 56), (4, 4)), ((40, 28), (2, 2)), ((20, 56), (4, 2))])
def test_crops_are_one_rectangle_without_line_ends(family, size, shape):
    model = zoo.build(family)
    model.config.image_grid_pinpoints = [[28, 56], [56, 28], [56, 56]]
    pixels, sizes = torch.zeros(1, 5 if size == (56, 56) else 3, 3, 28, 28), torch.tensor([size[::-1]])
    with torch.no_grad():
        count = len(model.model.get_image_features(pixels, sizes).pooler_output[0])
    ids = torch.full((1, count), zoo.IMAGE)
    base, crops = tiles_of(model, PLAIN, {"input_ids": ids, "pixel_values": pixels, "image_sizes": sizes}, size)
    assert base.tokens.tolist() == [[0, 1], [2, 3]]
    assert tuple(crops.tokens.shape) == shape
    width = crops.tokens.shape[1]
    expected = [[4 + row * (width + 1) + column for column in range(width)] for row in range(len(crops.tokens))]
    assert crops.tokens.tolist() == expected
    assert int(crops.tokens.max()) == count - 2  # the last token ends a line


def test_what_clip_cuts_off_is_not_seen():
    model, size = small_model(), (96, 48)
    inputs = processor()(text="<image> what", images=picture(*size), return_tensors="pt")
    (tile,) = tiles_of(model, processor(), inputs, size)
    assert tile.box == (24, 0, 72, 48)
    assert tile.tokens.shape == (6, 6)
    padded = SimpleNamespace(image_processor=SimpleNamespace(do_pad=True, do_center_crop=True))
    assert tiles_of(model, padded, inputs, size)[0].box == (0, -24, 96, 72)


def test_models_whose_tokens_cannot_be_placed():
    model = zoo.build("llava")
    model.config.model_type = "fuyu"
    with pytest.raises(attnpatch.UnsupportedModelError, match=r"model type 'fuyu'.*Known model types: gemma3"):
        tiles_of(model, PLAIN, zoo.image_prompt("llava"), (4, 4))
    inputs = zoo.image_prompt("gemma3")
    inputs["pixel_values"] = torch.zeros(3, 3, 28, 28)
    with pytest.raises(attnpatch.AttnPatchError, match="pan and scan"):
        tiles_of(zoo.build("gemma3"), PLAIN, inputs, (4, 4))
    inputs = {**zoo.image_prompt("llava"), "input_ids": torch.tensor([[1] + [zoo.IMAGE] * 5])}
    with pytest.raises(attnpatch.AttnPatchError, match="5 image tokens, which form no square"):
        tiles_of(zoo.build("llava"), PLAIN, inputs, (4, 4))


def test_every_family_of_the_zoo_is_covered():
    for family in FAMILIES:
        assert tiles_of(zoo.build(family), PLAIN, zoo.image_prompt(family), (28, 28))


# maps


def test_a_map_of_one_tile_is_its_values():
    tile = Tile(torch.arange(6).view(2, 3), (0, 0, 30, 20))
    values = torch.rand(4, 6)
    assert torch.equal(grid_map(values, [tile]), values.view(4, 2, 3))
    assert torch.equal(grid_map(values, [tile], mass=True), values.view(4, 2, 3))


def test_shares_of_overlapping_tiles_are_added_and_values_averaged():
    whole = Tile(torch.tensor([[0]]), (0, 0, 20, 20))
    fine = Tile(torch.tensor([[1, 2], [3, 4]]), (0, 0, 20, 20))
    values = torch.tensor([8.0, 1, 2, 3, 4])
    assert grid_map(values, [whole, fine]).tolist() == [[4.5, 5.0], [5.5, 6.0]]
    spread = grid_map(values, [whole, fine], mass=True)
    assert spread.tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert float(spread.sum()) == float(values.sum())


def test_a_map_on_the_picture_and_beside_it():
    region = region_of([Tile(torch.zeros(1, 1), (2, -1, 6, 3))])
    found = on_picture(torch.ones(2, 2), region, (8, 5), outside=-1.0)
    assert found.shape == (5, 8)
    assert found[:3, 2:6].eq(1).all()
    assert int(found.eq(1).sum()) == 12
    found = on_picture(torch.tensor([[0.0, 1.0]]), (0, 0, 4, 2), (4, 2), outside=0.0)
    assert found[0].tolist() == [0.0, 0.25, 0.75, 1.0]
