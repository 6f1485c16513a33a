"""vhr on every family against runs of the stock model whose heads are scaled by hooks, one layer more at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import attnpatch
from attnpatch.patching.sites import inspect_model
from tests import zoo
from tests.methods.vision.agreement import sharp
from tests.methods.vision.prompts import FAMILIES
from tests.methods.vision.two_streams import choose
from tests.snapshots import generated_logits

ALPHA, LAYERS = 2.0, (0, 1)


@contextmanager
def scaled(model, heads: dict[int, list[int]], seen: dict[int, torch.Tensor] | None = None) -> Iterator[None]:
    """Inside, these heads of each layer are ALPHA times what they are; seen: those of a prompt's last row `[H, D]`."""
    text = inspect_model(model)
    handles = []
    for site in text.sites:

        def scale(module, args, layer=site.layer, count=site.heads):
            found = args[0].unflatten(-1, (count, -1)).clone()
            if seen is not None:
                seen[layer] = found[0, -1].clone()
            found[..., heads.get(layer, []), :] *= ALPHA
            return (found.flatten(-2),)

        handles.append(text.base.get_submodule(site.name).o_proj.register_forward_pre_hook(scale))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def heads_by_hand(model, inputs: dict, alone: dict, *, reinforce_text: bool) -> dict[int, list[int]]:
    heads: dict[int, list[int]] = {}
    for layer in LAYERS:
        with_image, without = {}, {}
        with torch.no_grad():
            with scaled(model, heads, with_image):
                model(**inputs)
            with scaled(model, heads if reinforce_text else {}, without):
                model(**alone)
        heads[layer] = choose(with_image[layer], without[layer], outlier_filter=True)
    return heads


def text_of(model, inputs: dict) -> dict:
    """The same prompt without its image."""
    around = {getattr(model.config, name, None) for name in ("vision_start_token_id", "vision_end_token_id")}
    around |= {getattr(model.config, name, None) for name in ("boi_token_index", "eoi_token_index")}
    ids = inputs["input_ids"]
    ids = torch.tensor([[token for token in ids[0].tolist() if token not in {zoo.IMAGE, *around}]])
    types = {name: torch.zeros_like(ids) for name in ("token_type_ids", "mm_token_type_ids") if name in inputs}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **types}


@pytest.mark.parametrize("reinforce_text", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_heads_that_are_scaled_by_hand(family, reinforce_text):
    model, inputs = sharp(family), zoo.image_prompt(family)
    stock = generated_logits(model, inputs)
    heads = heads_by_hand(model, inputs, text_of(model, inputs), reinforce_text=reinforce_text)
    assert any(heads.values())
    with scaled(model, heads):
        expected = generated_logits(model, inputs)
    with attnpatch.apply(model, "vhr", alpha=ALPHA, layers=LAYERS, reinforce_text=reinforce_text):
        found = generated_logits(model, inputs)
    assert torch.equal(found[0], expected[0])
    assert torch.allclose(found[1], expected[1], atol=1e-4)
    assert not torch.allclose(found[1], stock[1], atol=1e-3)
