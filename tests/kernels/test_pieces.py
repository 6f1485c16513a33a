"""Merging, decode, rows, choice of backend."""

from __future__ import annotations

import pytest
import torch

from attnpatch.kernels import (
    PermutedWindow,
    Window,
    attend,
    decode,
    merge,
    reference_attention,
    row_outputs,
    row_weights,
    softmax,
    visible_mask,
)
from attnpatch.kernels.backends import choose
from attnpatch.kernels.softmax import block_attention, explicit_attention

from .cases import RULES, inputs, shuffled


@pytest.mark.parametrize("flash", [True, False])
def test_merge_with_rows_that_see_nothing(flash, monkeypatch):
    """torch's CPU operator gives empty rows an lse of 0: merged as it is, they would count as keys of logit 0."""
    if not flash:
        monkeypatch.setattr(softmax, "_FLASH", None)
    q, k, v = inputs(batch=1, queries=40, keys=60)
    mask = torch.zeros(40, 60).masked_fill(
        torch.rand(40, 60, generator=torch.Generator().manual_seed(0)) < 0.5, -torch.inf
    )
    mask[:5, :30] = -torch.inf
    mask[5:9, 30:] = -torch.inf
    whole, lse = block_attention(q, k, v, mask, 0.2, want_lse=True)
    parts = [
        block_attention(q, k[:, :, a:b], v[:, :, a:b], mask[:, a:b], 0.2, want_lse=True, may_be_empty=True)
        for a, b in ((0, 30), (30, 60))
    ]
    assert torch.isneginf(parts[0][1][0, 0, :5]).all()
    assert torch.equal(parts[0][0][0, 0, :5], torch.zeros(5, 32))
    for first, second in (parts, parts[::-1]):
        output, merged = merge(first, second)
        assert (output - whole).abs().max() < 2e-6
        assert (merged - lse).abs().max() < 2e-6


def test_explicit_softmax_gradients_survive_empty_rows():
    q, k, v = (x.double().requires_grad_() for x in inputs(batch=1, queries=6, keys=7, dim=8))
    mask = torch.zeros(6, 7)
    mask[2] = -torch.inf
    output, lse = explicit_attention(q, k, v, mask, 0.3)
    other = (torch.ones_like(output), torch.zeros_like(lse))
    merged, _ = merge((output, lse), other)
    grads = torch.autograd.grad(merged.sum(), (q, k, v))
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("name", RULES)
def test_without_the_private_operator(name, monkeypatch):
    monkeypatch.setattr(softmax, "_FLASH", None)
    q, k, v = inputs(queries=403)
    expected, _ = reference_attention(q, k, v, RULES[name])
    assert (attend(q, k, v, RULES[name], return_lse=True).output - expected).abs().max() < 5e-6


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (8, 2), (3, 1)])
def test_decode_folds_the_group(rows, heads, kv_heads):
    q, k, v = inputs(heads=heads, kv_heads=kv_heads, queries=rows, keys=90)
    mask = torch.zeros(rows, 90).masked_fill(torch.arange(90) > 80 + torch.arange(rows)[:, None], -torch.inf)
    expected, lse = explicit_attention(q.double(), k.double(), v.double(), mask.double(), 32**-0.5)
    for want_lse in (False, True):
        output, found = decode(q, k, v, mask=mask, want_lse=want_lse)
        assert (output - expected).abs().max() < 2e-6
    assert (found - lse).abs().max() < 2e-6


@pytest.mark.parametrize("name", RULES)
def test_row_weights(name):
    n, spans = 150, [(0, 150), (30, 140)]
    q, k, v = inputs(queries=n)
    rows = torch.tensor([149, 60, 3])
    expected_output, expected = reference_attention(q, k, v, RULES[name], spans=spans)
    visible = visible_mask(RULES[name], rows, n, 2, spans=spans)
    weights = row_weights(q[:, :, rows], k, visible=visible)
    assert weights.dtype == torch.float32
    assert (weights - expected[:, :, rows]).abs().max() < 1e-6
    assert (row_outputs(weights, v) - expected_output[:, :, rows]).abs().max() < 5e-6


def test_row_weights_at_an_offset_with_sink_logits():
    q, k, v = inputs(batch=1, queries=2, keys=80)
    logits = torch.tensor([0.0, 1.0, 5.0, -40.0])
    rule = Window(20, sink=3)
    options = {"offset": 98, "key_offset": 20, "scale": 0.3, "sink_logits": logits}
    _, expected = reference_attention(q, k, v, rule, **options)
    visible = visible_mask(rule, torch.tensor([98, 99]), 80, 1, key_offset=20)
    weights = row_weights(q, k, scale=0.3, visible=visible, sink_logits=logits)
    assert (weights - expected).abs().max() < 1e-6
    assert (weights[:, 2].sum(-1) < 0.99).all()
    nothing = row_weights(q, k, visible=torch.zeros(2, 80, dtype=torch.bool))
    assert torch.equal(nothing, torch.zeros_like(nothing))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("place", [50, 200, 399])
def test_a_later_token_never_changes_an_earlier_output(name, place):
    q, k, v = inputs(batch=1, queries=400)
    before = attend(q, k, v, RULES[name]).output
    q, k, v = (x.clone() for x in (q, k, v))
    for x in (q, k, v):
        x[:, :, place] += 3.0
    after = attend(q, k, v, RULES[name]).output
    assert torch.equal(before[:, :, :place], after[:, :, :place])
    assert not torch.equal(before[:, :, place], after[:, :, place])


def test_padding_content_never_matters():
    rule = PermutedWindow(shuffled, 20, 19, sink=2, local=3)
    q, k, v = inputs(queries=300)
    spans = [(40, 300), (0, 260)]
    before = attend(q, k, v, rule, spans=spans).output
    q, k, v = (x.clone() for x in (q, k, v))
    for x in (q, k, v):
        x[0, :, :40] = 1e4
        x[1, :, 260:] = -1e4
    after = attend(q, k, v, rule, spans=spans).output
    assert torch.equal(before[0, :, 40:], after[0, :, 40:])
    assert torch.equal(before[1, :, :260], after[1, :, :260])
    assert torch.isfinite(after).all()


def test_a_padded_row_equals_the_row_alone():
    q, k, v = inputs(queries=500)
    for rule in RULES.values():
        both = attend(q, k, v, rule, spans=[(0, 500), (77, 500)]).output
        alone = attend(q[1:, :, 77:], k[1:, :, 77:], v[1:, :, 77:], rule).output
        assert (both[1:, :, 77:] - alone).abs().max() < 2e-6


def test_choice_of_backend():
    assert choose("auto", torch.device("cpu"), 500).name == "chunked"
    assert choose("auto", torch.device("cuda"), 500).name == "flex"
    assert choose("auto", torch.device("cuda"), 1).name == "chunked"
    assert choose("flex", torch.device("cpu"), 1).name == "flex"
    assert choose("reference", torch.device("cpu"), 1) is None


def test_the_path_is_named():
    q, k, v = inputs(batch=1, queries=1300)
    ran = {name: attend(q, k, v, rule).backend for name, rule in RULES.items()}
    assert ran["causal"] == "dense-causal"
    assert ran["window"] == "chunked-window"
    assert ran["slots-heads"] == "chunked-slots"
    assert ran["buckets-local"] == "chunked-buckets+chunked-window"
    assert attend(q, k, v, Window(2000)).backend == "dense-causal"
    assert attend(q[:, :, -1:], k, v, Window(2000), offset=1299).backend == "dense-rows"
    assert attend(q[:, :, -90:], k, v, Window(2000), offset=1210).backend == "dense-chunk"
    assert attend(q[:, :, -3:], k, v, Window(50, sink=4), offset=1297).backend == "chunked-window"


def test_masks_made_in_inference_mode_serve_training():
    q, k, v = inputs(batch=1, queries=300, dim=24)
    with torch.inference_mode():
        attend(q, k, v, Window(61))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    attend(*leaves, Window(61)).output.sum().backward()
    assert leaves[0].grad.abs().sum() > 0
