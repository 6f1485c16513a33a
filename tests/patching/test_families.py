"""Every family: the identity is exact, removal is exact, and what cannot be patched is refused with the reason."""

from __future__ import annotations

import pytest

import attnpatch
from attnpatch.patching.masks import LazyMask
from tests import zoo
from tests.snapshots import generated_logits, same, structure

PATCHABLE = [*zoo.TEXT_CONFIGS, *zoo.VLM_CONFIGS]


@pytest.mark.parametrize("family", PATCHABLE)
def test_identity_and_removal_are_exact(family):
    model, inputs = zoo.build(family), zoo.prompt_for(family)
    stock = generated_logits(model, inputs)
    before = structure(model)  # after the first run: transformers itself hooks the vision towers then
    dense_masks = LazyMask.materialised

    patch = attnpatch.apply(model, "stock")
    assert same(stock, generated_logits(model, inputs))
    assert LazyMask.materialised == dense_masks, "library code read the values of a lazy mask"
    report = patch.report()
    assert report.sites
    assert all(site.calls == 4 for site in report.sites), report

    patch.remove()
    assert structure(model) == before
    assert same(stock, generated_logits(model, inputs))


@pytest.mark.parametrize("family", zoo.REFUSED_CONFIGS)
def test_families_that_bypass_the_interface_are_refused(family):
    model = zoo.build(family)
    before = structure(model)
    with pytest.raises(attnpatch.UnsupportedModelError, match=r"attention interface|compares the name"):
        attnpatch.apply(model, "stock")
    assert structure(model) == before


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "deepseek_v3", "gpt_neox", "llama4"])
def test_eager_base_gives_the_same_attentions(family):
    model, inputs = zoo.build(family, attn_implementation="eager"), zoo.text_batch()
    stock = model(**inputs, output_attentions=True).attentions
    with attnpatch.apply(model, "stock"):
        patched = model(**inputs, output_attentions=True).attentions
    assert stock
    assert same(stock, patched)
