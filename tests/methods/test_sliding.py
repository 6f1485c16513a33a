"""sliding against its sheet."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.kernels import Window
from tests import zoo
from tests.methods.masks import logits_under, one_layer, sliding_mask, tokens


def test_the_mask_of_the_sheet():
    assert sliding_mask(16, 4, 0).sum(1).tolist() == [1, 2, 3] + [4] * 13
    assert sliding_mask(16, 4, 2)[10].nonzero().flatten().tolist() == [0, 1, 7, 8, 9, 10]
    assert sliding_mask(16, 4, 2)[3].nonzero().flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("length", [1, 5, 16, 61])
@pytest.mark.parametrize("window, sink", [(1, 0), (4, 0), (4, 2), (7, 3), (16, 4)])
def test_the_model_under_the_method_is_the_model_under_the_mask(length, window, sink):
    model, ids = one_layer(), tokens(length)
    expected = logits_under(model, ids, sliding_mask(length, window, sink))
    with attnpatch.apply(model, "sliding", window=window, sink=sink) as patch, torch.no_grad():
        assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)
        assert patch.report().mean_keys == pytest.approx(sliding_mask(length, window, sink).sum().item() / length)


@pytest.mark.parametrize("decode", ["sliding", "dense"])
def test_decode_rows(decode):
    model, ids = one_layer(), tokens(20)
    mask = sliding_mask(20, 4, 2)
    if decode == "dense":
        mask[12:] = torch.ones(20, 20, dtype=torch.bool).tril()[12:]
    expected = logits_under(model, ids, mask)
    with attnpatch.apply(model, "sliding", window=4, sink=2, decode=decode), torch.no_grad():
        out = model(input_ids=ids[:, :12], use_cache=True)
        found = [out.logits]
        for at in range(12, 20):
            out = model(input_ids=ids[:, at : at + 1], past_key_values=out.past_key_values)
            found.append(out.logits)
    assert torch.allclose(torch.cat(found, 1), expected, atol=1e-5)


def test_a_layers_own_window_is_never_widened():
    model, ids = zoo.build("mistral"), tokens(24)  # its own window: 8
    with torch.no_grad():
        stock = model(input_ids=ids).logits
        with attnpatch.apply(model, "sliding", window=8, sink=4):
            assert torch.equal(stock, model(input_ids=ids).logits)
        with attnpatch.apply(model, "sliding", window=5, sink=4) as patch:
            assert not torch.allclose(stock, model(input_ids=ids).logits, atol=1e-4)
            assert patch.report().mean_keys == pytest.approx(Window(5, 4, reach=8).pairs(0, 24, 24) / 24)


def test_eviction_equals_masking():
    model, ids = one_layer(), tokens(30)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True}
    runs = []
    for evict in (False, True):
        with attnpatch.apply(model, "sliding", window=6, sink=2, evict=evict), torch.no_grad():
            out = model.generate(ids, **options, return_dict_in_generate=True)
            runs.append(torch.stack(out.logits))
    assert torch.allclose(*runs, atol=1e-5)
