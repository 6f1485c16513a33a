"""Block lists: the rule against masks written out, the kernel against the float64 reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnpatch.kernels import Blocks, Causal, attend, reference_attention, visible_mask
from attnpatch.kernels import blocks as kernel
from attnpatch.kernels.flex_blocks import block_mask
from attnpatch.kernels.rows import row_outputs, row_weights
from attnpatch.kernels.spans import Geometry

from .cases import inputs, random_blocks
from .test_attend import check

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def written_out(kept: torch.Tensor, block: int, first: int, n: int) -> torch.Tensor:
    """[H, n, n], token by token."""
    mask = torch.zeros(kept.shape[0], n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(i + 1):
            row = i // block - first
            mask[:, i, j] = kept[:, row, j // block] if 0 <= row < kept.shape[1] else True
    return mask


@st.composite
def lists(draw):
    """A rule, and a number of tokens that may end anywhere: inside its list, inside a block, or behind both."""
    block, first = draw(st.sampled_from([1, 3, 4, 8])), draw(st.integers(0, 3))
    queries = draw(st.integers(1, 6))
    keys = first + queries + draw(st.integers(0, 2))
    kept = random_blocks(draw(st.sampled_from([1, 4])), queries, keys, first, seed=draw(st.integers(0, 1 << 20)))
    if draw(st.booleans()):  # heads of a group agree
        kept[1::2] = kept[0::2] if len(kept) > 1 else kept[1::2]
    if draw(st.integers(0, 5)) == 0:
        kept.fill_(True)
    return Blocks(kept, block, first), draw(st.integers(1, block * (first + queries + 1)))


@settings(max_examples=100, deadline=None)
@given(lists(), st.data())
def test_the_rule_is_the_mask_written_out(case, data):
    rule, n = case
    mask = written_out(rule.kept, rule.block, rule.first, n)
    assert torch.equal(visible_mask(rule, torch.arange(n), n, 1)[0], mask)
    first = data.draw(st.integers(0, n))
    last = data.draw(st.integers(first, n))
    assert rule.pairs(first, last, n) == pytest.approx(mask[:, first:last].sum().item() / len(mask))
    assert rule.sees_all(n) == torch.equal(mask, torch.ones(n, n, dtype=torch.bool).tril().expand_as(mask))


@settings(max_examples=100, deadline=None)
@given(lists(), st.data())
def test_the_kernel_is_the_rule(case, data):
    rule, n = case
    first = data.draw(st.integers(0, n - 1))
    key_first = data.draw(st.integers(0, first))
    spans = data.draw(st.none() | st.just([(0, n), (n // 3, n - n // 4)]))
    q, k, v = (x.double() for x in inputs(heads=4, kv_heads=2, queries=n, dim=8))
    q, k, v = q[:, :, first:], k[:, :, key_first:], v[:, :, key_first:]
    check(q, k, v, rule, offset=first, key_offset=key_first, spans=spans)


@pytest.mark.parametrize("backend", ["chunked", "flex"])
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("block, n", [(16, 203), (128, 300), (160, 401)])
def test_lists_per_head(block, n, heads, kv_heads, backend):
    q, k, v = inputs(heads=heads, kv_heads=kv_heads, queries=n)
    count = -(-n // block)
    check(q, k, v, Blocks(random_blocks(heads, count, count), block), backend)


@pytest.mark.parametrize("agree", [True, False])
@pytest.mark.parametrize("spans", [None, [(0, 250), (77, 250)], [(0, 250), (0, 201)]], ids=["even", "left", "right"])
def test_groups_that_agree_share_their_units(agree, spans, monkeypatch):
    kept = random_blocks(4, 16, 16)
    kept[1::2] = kept[0::2]
    kept[1, 9, 3] ^= not agree
    rows = []
    real = kernel.block_attention

    def counted(q, *arguments, **options):
        rows.append(q.shape[2])
        return real(q, *arguments, **options)

    monkeypatch.setattr(kernel, "block_attention", counted)
    check(*inputs(queries=250), Blocks(kept, 16), spans=spans, sink_logits=torch.tensor([-2.0, 0.0, 1.0, 9.0]))
    assert max(rows) == (32 if agree else 16)


def test_units_of_equal_counts_share_calls(monkeypatch):
    calls = []
    real = kernel.block_attention
    monkeypatch.setattr(kernel, "block_attention", lambda q, *a, **o: calls.append(q.shape) or real(q, *a, **o))
    kept = random_blocks(4, 64, 64)
    attend(*inputs(batch=1, queries=1024), Blocks(kept, 16))
    assert len(calls) == len(set(kept.tril().sum(2).flatten().tolist()))
    assert sum(shape[0] for shape in calls) == 4 * 64


def test_work_is_what_the_lists_keep(monkeypatch):
    scored = []
    real = kernel.block_attention
    monkeypatch.setattr(
        kernel,
        "block_attention",
        lambda q, k, *a, **o: scored.append(q[..., 0].numel() * k.shape[2]) or real(q, k, *a, **o),
    )
    kept = random_blocks(4, 64, 64, share=0.1)
    attend(*inputs(batch=1, queries=1024), Blocks(kept, 16))
    assert sum(scored) == kept.tril().sum() * 16 * 16


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("agree", [True, False])
def test_gradients(agree, sinks):
    """One pass keeps no gathered keys: they are gathered again for the backward pass."""
    n, spans = 203, [(0, 203), (40, 190)]
    kept = random_blocks(4, 13, 13)
    kept = kept[:1] if agree else kept
    rule = Blocks(kept, 16)
    data = [x.double() for x in inputs(queries=n, dim=16)] + [torch.arange(4.0, dtype=torch.float64)]
    weight = torch.randn(2, 4, n, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for path in ("reference", "chunked"):
        leaves = [x.clone().requires_grad_() for x in data[: 3 + sinks]]
        extra = {"sink_logits": leaves[3]} if sinks else {}
        if path == "reference":
            output, _ = reference_attention(*leaves[:3], rule, spans=spans, **extra)
        else:
            output = attend(*leaves[:3], rule, spans=spans, backend=path, **extra).output
        found.append(torch.autograd.grad((output * weight).sum(), leaves))
    for expected, actual in zip(*found, strict=True):
        assert (expected - actual).abs().max() < 1e-10


def test_gathered_keys_are_not_kept_for_the_backward_pass():
    kept = torch.ones(4, 32, 32, dtype=torch.bool)
    kept[0, 31, 0] = False
    q, k, v = (x.clone().requires_grad_() for x in inputs(batch=1, queries=512))
    sizes = []

    def pack(x):
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attend(q, k, v, Blocks(kept, 16))
    assert max(sizes) <= q.numel()


def test_chunks_with_lists_of_their_own():
    """A list may speak of a chunk's query blocks only."""
    n, block = 300, 16
    q, k, v = inputs(queries=n)
    kept = random_blocks(4, 19, 19)
    whole, _ = reference_attention(q, k, v, Blocks(kept, block))
    for first, last in [(0, 5), (5, 9), (9, 19)]:
        rows = slice(first * block, min(last * block, n))
        rule = Blocks(kept[:, first:last], block, first)
        part = check(q[:, :, rows], k[:, :, : rows.stop], v[:, :, : rows.stop], rule, offset=rows.start)
        assert (part.output - whole[:, :, rows]).abs().max() < 5e-6


def test_row_weights():
    q, k, v = inputs(batch=1, queries=150)
    rule, rows = Blocks(random_blocks(4, 10, 10), 16), torch.tensor([149, 60, 3])
    output, expected = reference_attention(q, k, v, rule)
    weights = row_weights(q[:, :, rows], k, visible=visible_mask(rule, rows, 150, 1))
    assert (weights - expected[:, :, rows]).abs().max() < 1e-6
    assert (row_outputs(weights, v) - output[:, :, rows]).abs().max() < 5e-6


@pytest.mark.parametrize("block", [16, 64, 128, 160, 256])
@pytest.mark.parametrize("first, key_first, last", [(0, 0, 1000), (320, 0, 700), (330, 45, 1000)])
def test_flex_lists_touch_what_is_visible(block, first, key_first, last):
    """The compiled kernel trusts the lists: what is visible is on one of them, and full ones are all visible."""
    count = -(-last // block)
    rule = Blocks(random_blocks(3, count, count, share=0.2), block)
    mask = block_mask(rule, Geometry(first, last, key_first, last, last), 3, 3, torch.device("cpu"))
    seen = visible_mask(rule, torch.arange(first, last), last - key_first, 1, key_offset=key_first, total=last)[0]
    for head in range(3):
        for row in range(-(-(last - first) // 128)):
            rows = seen[head, row * 128 : row * 128 + 128]
            partial = mask.kv_indices[0, head, row, : mask.kv_num_blocks[0, head, row]].tolist()
            full = mask.full_kv_indices[0, head, row, : mask.full_kv_num_blocks[0, head, row]].tolist()
            assert not set(partial) & set(full)
            for column in range(-(-(last - key_first) // 128)):
                tile = rows[:, column * 128 : column * 128 + 128]
                assert (column in full) == bool(tile.all() and tile.shape == (128, 128))
                assert (column in partial or column in full) >= bool(tile.any())
                if first == 0:
                    assert (column in partial or column in full) == bool(tile.any())


def test_whole_lists_run_dense():
    q, k, v = inputs(batch=1, queries=200)
    everything = Blocks(torch.ones(4, 13, 13, dtype=torch.bool).tril(), 16)
    assert attend(q, k, v, everything).backend == "dense-causal"
    assert torch.equal(attend(q, k, v, everything).output, attend(q, k, v, Causal()).output)
    assert attend(q, k, v, Blocks(random_blocks(4, 13, 13), 16)).backend == "chunked-blocks"
    assert str(everything) == "kept blocks of 16"


ONE = torch.ones(1, 1, 1, dtype=torch.bool)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: Blocks(ONE, 0), ValueError, "block must be >= 1"),
        (lambda: Blocks(ONE, 4, first=-1), ValueError, "first must be >= 0"),
        (lambda: Blocks(ONE.float(), 4), TypeError, "kept must be a bool tensor"),
        (lambda: Blocks([[True]], 4), TypeError, "kept must be a bool tensor"),
        (lambda: Blocks(ONE[0], 4), ValueError, "at least first \\+ query blocks"),
        (lambda: Blocks(ONE, 4, first=1), ValueError, "at least first \\+ query blocks"),
        (lambda: Blocks(~ONE, 4), ValueError, "must hold the diagonal"),
    ],
)
def test_bad_lists(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("backend", ["chunked", "flex"])
def test_one_list_per_query_head(backend):
    q, k, v = inputs(batch=1, queries=40)
    with pytest.raises(ValueError, match="4 heads, got 2 lists"):
        attend(q, k, v, Blocks(random_blocks(2, 3, 3), 16), backend=backend)
