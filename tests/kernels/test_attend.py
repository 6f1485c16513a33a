"""Every rule and path against the float64 reference."""

from __future__ import annotations

import pytest
import torch

from attnpatch.kernels import PermutedBuckets, PermutedWindow, Window, attend, reference_attention
from attnpatch.kernels.reference import dense_attention

from .cases import RULES, TOLERANCE, inputs, shuffled, shuffled_by_head

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

PADDINGS = {
    "none": lambda n: None,
    "left": lambda n: [(0, n), (n // 3, n)],
    "right": lambda n: [(0, n - 17), (0, n)],
    "both": lambda n: [(11, n - 30), (5, 6)],
}
# Uncompiled FlexAttention traces a graph per case: fewer cases of it.
FLEX_RULES = ["causal", "window-sinks", "slots-local", "slots-heads", "buckets-previous", "blocks"]
CASES = [(name, "chunked") for name in RULES] + [(name, "flex") for name in FLEX_RULES]


def check(q, k, v, rule, backend="chunked", tolerance=None, **options):
    """Compare attend with the reference, lse included; returns the result."""
    expected, _, expected_lse = dense_attention(q, k, v, rule, **options)
    tolerance = TOLERANCE[q.dtype] if tolerance is None else tolerance
    for return_lse in (False, True):
        result = attend(q, k, v, rule, backend=backend, return_lse=return_lse, **options)
        assert result.output.dtype == q.dtype
        assert result.output.shape == expected.shape
        error = (result.output.double() - expected).abs().max().item()
        assert error < tolerance, (str(rule), result.backend, error)
    assert (result.lse - expected_lse).abs().max() < max(10 * tolerance, 2e-5)
    return result


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name, backend", CASES)
def test_prefill(name, padding, backend):
    q, k, v = inputs(queries=403)
    check(q, k, v, RULES[name], backend, spans=PADDINGS[padding](403))


@pytest.mark.parametrize("heads, kv_heads", [(1, 1), (3, 3), (4, 2), (8, 2)])
@pytest.mark.parametrize("name", [name for name in RULES if name != "slots-heads"])
def test_head_groups(name, heads, kv_heads):
    q, k, v = inputs(batch=1, heads=heads, kv_heads=kv_heads, queries=331)
    check(q, k, v, RULES[name])


@pytest.mark.parametrize("length", [1, 2, 47, 48, 49, 191, 192, 193, 385, 1001])
@pytest.mark.parametrize("name", RULES)
def test_odd_lengths(name, length):
    q, k, v = inputs(batch=1, queries=length, heads=2, kv_heads=2, dim=16)
    check(q, k, v, RULES[name])


def declared(rule, length):
    """The rule with the whole prompt's length, where it takes one."""
    if not hasattr(rule, "permutation"):
        return rule
    return type(rule)(**{**vars(rule), "length": length})


@pytest.mark.parametrize("spans", [None, [(0, 300), (120, 300)]], ids=["even", "left"])
@pytest.mark.parametrize("name, backend", CASES)
def test_chunks_equal_one_shot(name, backend, spans):
    length = 300
    rule = RULES[name]
    q, k, v = inputs(queries=length)
    whole, _ = reference_attention(q, k, v, rule, spans=spans)
    for first, last in [(0, 100), (100, 101), (101, 105), (105, 300)]:
        now = None if spans is None else [(min(start, last), last) for start, _ in spans]
        part = check(
            q[:, :, first:last],
            k[:, :, :last],
            v[:, :, :last],
            declared(rule, length),
            backend,
            offset=first,
            spans=now,
        )
        assert (part.output - whole[:, :, first:last]).abs().max() < 5e-6


@pytest.mark.parametrize("queries", [1, 3, 70])
@pytest.mark.parametrize("name", RULES)
def test_static_cache_and_evicted_keys(name, queries):
    """Keys past the last query are unseen slots of a static cache; key_offset > 0 means that older ones are gone."""
    q, k, v = inputs(queries=queries, keys=260)
    rule = declared(RULES[name], 500)
    check(q, k, v, rule, offset=150)
    check(q, k, v, rule, offset=200, key_offset=90)
    check(q, k, v, rule, offset=200, key_offset=90, spans=[(0, 200 + queries), (110, 200 + queries)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", RULES)
def test_dtypes(name, dtype):
    q, k, v = inputs(queries=260, dtype=dtype)
    check(q, k, v, RULES[name], spans=[(0, 260), (31, 260)])


@pytest.mark.parametrize("dim, value_dim", [(48, 32), (32, 80), (128, 128), (256, 64), (36, 36)])
@pytest.mark.parametrize("name", ["causal", "window-sinks", "slots-local", "buckets"])
def test_head_dims(name, dim, value_dim):
    q, k, v = inputs(queries=210, dim=dim, value_dim=value_dim)
    check(q, k, v, RULES[name], scale=0.1)


@pytest.mark.parametrize("name, backend", CASES)
def test_sink_logits(name, backend):
    q, k, v = inputs(queries=230)
    logits = torch.tensor([-3.0, 0.0, 2.0, 30.0])
    options = {"sink_logits": logits, "spans": [(0, 230), (60, 215)]}
    check(q, k, v, RULES[name], backend, **options)


@pytest.mark.parametrize(
    "rule",
    [
        Window(384),
        Window(300, sink=4),
        Window(1024, sink=4),
        PermutedWindow(shuffled, 150, 149),
        PermutedWindow(shuffled, 100, 99, circular=False),
        PermutedWindow(shuffled_by_head, 100, 99),
        PermutedBuckets(shuffled, 256),
        PermutedBuckets(shuffled, 390, previous=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, 3])
def test_long_enough_to_fold(rule, batch):
    q, k, v = inputs(batch=batch, queries=1400, heads=2, kv_heads=2 if batch == 1 else 1, dim=32)
    if rule.pairs(0, 1, 8) and getattr(rule, "permutation", None) is shuffled_by_head:
        k, v = k.expand(-1, 2, -1, -1), v.expand(-1, 2, -1, -1)
    check(q, k, v, rule)


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_gradients(name, sinks):
    data = [x.double() for x in inputs(batch=2, queries=403, dim=16)]
    logits = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    spans = [(0, 403), (40, 390)]
    weight = torch.randn(2, 4, 403, 16, dtype=torch.float64)
    found = []
    for path in ("reference", "chunked"):
        leaves = [x.clone().requires_grad_() for x in (*data, logits)]
        extra = {"sink_logits": leaves[3]} if sinks else {}
        if path == "reference":
            output, _ = reference_attention(*leaves[:3], RULES[name], spans=spans, **extra)
        else:
            output = attend(*leaves[:3], RULES[name], spans=spans, backend=path, **extra).output
        found.append(torch.autograd.grad((output * weight).sum(), leaves[: 3 + sinks]))
    for expected, actual in zip(*found, strict=True):
        assert (expected - actual).abs().max() < 1e-10


def test_inference_mode_and_contiguous_layout():
    q, k, v = (x.contiguous() for x in inputs(queries=420))
    with torch.inference_mode():
        for rule in RULES.values():
            check(q, k, v, rule)
