"""triangle: a window, and dense rows at the end of each row's prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnpatch
from attnpatch.kernels import Window
from tests import zoo
from tests.methods.masks import indices, logits_under, one_layer, sliding_mask, tokens


def triangle_mask(length: int, window: int, sink: int, last: int, prompt: int | None = None, decode: str = "sliding"):
    prompt = length if prompt is None else prompt
    i, j = indices(length)
    dense = (i >= prompt - last) & (i < prompt)
    if decode == "dense":
        dense |= i >= prompt
    return sliding_mask(length, window, sink) | (dense & (j <= i))


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits


def test_the_mask_of_the_sheet():
    rows = triangle_mask(16, 4, 2, 3).sum(1).tolist()
    assert rows == [1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6, 6, 14, 15, 16]


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 40),
    window=st.integers(1, 12),
    sink=st.integers(0, 6),
    last=st.integers(0, 45),
    data=st.data(),
)
def test_the_model_under_the_method_is_the_model_under_the_mask(length, window, sink, last, data):
    model, ids = one_layer(), tokens(length)
    prompt = data.draw(st.integers(1, length))
    decode = data.draw(st.sampled_from(["sliding", "dense"]))
    mask = triangle_mask(length, window, sink, last, prompt, decode)
    expected = logits_under(model, ids, mask)
    options = {"window": window, "sink": sink, "last": last, "decode": decode}
    with attnpatch.apply(model, "triangle", **options) as patch, patch.prompt(prompt):
        assert torch.allclose(logits(model, ids), expected, atol=1e-5)
        if not torch.equal(mask, mask.new_ones(mask.shape).tril()):  # then it runs as the model's own attention
            assert patch.report().mean_keys == pytest.approx(mask[:prompt].sum().item() / prompt)


@pytest.mark.parametrize("decode", ["sliding", "dense"])
def test_generated_tokens(decode):
    model, ids = one_layer(), tokens(24)
    expected = logits_under(model, ids, triangle_mask(24, 4, 2, 3, 16, decode))
    options = {"window": 4, "sink": 2, "last": 3, "decode": decode}
    with attnpatch.apply(model, "triangle", **options) as patch, torch.no_grad():
        out = model(input_ids=ids[:, :16], use_cache=True)
        found = [out.logits]
        for at in range(16, 24):
            out = model(input_ids=ids[:, at : at + 1], past_key_values=out.past_key_values)
            found.append(out.logits)
        assert torch.allclose(torch.cat(found, 1), expected, atol=1e-5)
        mean = triangle_mask(24, 4, 2, 3, 16, decode)[16:].sum().item() / 8
        assert patch.report().decode_mean_keys == pytest.approx(mean)


def test_the_last_rows_are_dense_rows():
    model, ids = one_layer(), tokens(40)
    stock = logits(model, ids)
    with attnpatch.apply(model, "triangle", window=6, sink=2, last=9):
        found = logits(model, ids)
    assert torch.allclose(found[:, -9:], stock[:, -9:], atol=1e-5)
    assert not torch.allclose(found[:, -10], stock[:, -10], atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_last_is_counted_in_each_row(side):
    model, lengths = one_layer(), (30, 17, 30, 24)
    rows = [tokens(length, seed) for seed, length in enumerate(lengths)]
    ids, mask = torch.zeros(4, 30, dtype=torch.long), torch.zeros(4, 30, dtype=torch.long)
    places = [slice(30 - n, 30) if side == "left" else slice(0, n) for n in lengths]
    for row, at in enumerate(places):
        ids[row, at], mask[row, at] = rows[row][0], 1
    expected = [logits_under(model, one, triangle_mask(one.shape[1], 4, 1, 5)) for one in rows]
    with attnpatch.apply(model, "triangle", window=4, sink=1, last=5) as patch:
        found = logits(model, ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        for row, at in enumerate(places):
            assert torch.allclose(found[row, at], expected[row][0], atol=1e-5), row
        total = sum(triangle_mask(n, 4, 1, 5).sum().item() for n in lengths)
        assert patch.report().mean_keys == pytest.approx(total / sum(lengths))


def in_chunks(model, ids, mask, cuts):
    out, found, cache = None, [], None
    at = (mask.cumsum(1) - 1).clamp(min=0)
    for first, last in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
        now = slice(first, last)
        with torch.no_grad():
            out = model(
                input_ids=ids[:, now], attention_mask=mask[:, :last], position_ids=at[:, now], past_key_values=cache,
                use_cache=True,
            )  # fmt: skip
        cache = out.past_key_values
        found.append(out.logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize("cuts", [[7], [25], [13, 26], [28, 29]])
def test_chunks_equal_one_shot(cuts):
    model, ids, mask = zoo.build("llama"), torch.cat([tokens(30), tokens(30, 1)]), torch.ones(2, 30, dtype=torch.long)
    mask[1, :9] = 0
    with attnpatch.apply(model, "triangle", window=4, sink=1, last=5) as patch, patch.prompt(30):
        whole = in_chunks(model, ids, mask, [])
        parts = in_chunks(model, ids, mask, cuts)
    assert torch.allclose(whole[mask.bool()], parts[mask.bool()], atol=1e-5)


def test_a_row_that_ends_early_in_chunks():
    """Right padding: right where a row's last tokens lie in the chunk in which it ends, else refused."""
    model, ids, mask = zoo.build("llama"), torch.cat([tokens(30), tokens(30, 1)]), torch.ones(2, 30, dtype=torch.long)
    mask[1, 17:] = 0
    with attnpatch.apply(model, "triangle", window=4, sink=1, last=5) as patch, patch.prompt(30):
        whole = in_chunks(model, ids, mask, [])
        for cuts in ([9], [12], [5, 20, 25]):
            assert torch.allclose(whole[mask.bool()], in_chunks(model, ids, mask, cuts)[mask.bool()], atol=1e-5), cuts
        for cuts in ([13], [17], [9, 16, 20]):
            with pytest.raises(
                attnpatch.UnsupportedCallError, match="row 1 of the batch turns out to end at token 17"
            ):
                in_chunks(model, ids, mask, cuts)


def test_without_a_declared_prompt_chunks_are_refused():
    model, ids = zoo.build("llama"), tokens(30)
    with (
        attnpatch.apply(model, "triangle", window=4, sink=1, last=5),
        pytest.raises(attnpatch.UnsupportedCallError, match=r"patch\.prompt"),
    ):
        in_chunks(model, ids, torch.ones(1, 30, dtype=torch.long), [11])


def test_a_layers_own_window_is_never_widened():
    model, ids = zoo.build("mistral"), tokens(24)  # its own window: 8
    stock = logits(model, ids)
    with attnpatch.apply(model, "triangle", window=8, sink=4, last=3):
        assert torch.equal(stock, logits(model, ids))
    with attnpatch.apply(model, "triangle", window=5, sink=4, last=24) as patch:
        assert torch.allclose(stock, logits(model, ids), atol=1e-5)
        assert patch.report().mean_keys == pytest.approx(sliding_mask(24, 8, 0).sum().item() / 24)
    with attnpatch.apply(model, "triangle", window=5, sink=4, last=3) as patch:
        assert not torch.allclose(stock, logits(model, ids), atol=1e-4)
        pairs = Window(5, 4, reach=8).pairs(0, 21, 24) + Window(8).pairs(21, 24, 24)
        assert patch.report().mean_keys == pytest.approx(pairs / 24)


def test_neutral():
    model, ids = zoo.build("llama"), tokens(24)
    stock = logits(model, ids)
    for options in ({}, {"window": 24, "sink": 0}, {"window": 2, "sink": 22}, {"window": 1, "last": 24}):
        with attnpatch.apply(model, "triangle", **options):
            assert torch.equal(stock, logits(model, ids)), options
