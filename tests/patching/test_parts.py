"""Parts of a call, some rows of the batch or some query rows, equal the corresponding part of the whole."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from transformers import DynamicCache

import attnpatch
from attnpatch.kernels import Window
from attnpatch.patching.method import Method
from tests import zoo

MODELS = [
    ("llama", "sdpa"),  # grouped queries
    ("llama", "eager"),
    ("mistral", "sdpa"),  # a window of its own in every layer
    ("gemma3_text", "sdpa"),  # in some layers
    ("gpt_oss", "eager"),  # learned sinks
]
RULES = {"stock": None, "window": Window(3, 2)}
LENGTH = 9
QUERIES = [(0, 1), (0, 4), (3, 4), (2, 7), (5, 9), (8, 9)]


class Probe(Method):
    """Hands every call and the next link down to a function."""

    name = "probe"
    needs_hidden = True

    def __init__(self, function):
        super().__init__()
        self.attend = function


def batch(kind: str, rows: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    ids, mask = torch.randint(3, 100, (rows, LENGTH), generator=generator), torch.ones(rows, LENGTH, dtype=torch.long)
    if kind == "left":
        mask[0, :4] = mask[2, :1] = 0
    elif kind == "right":
        mask[1, 6:] = 0
    return {"input_ids": ids * mask, **({} if kind == "plain" else {"attention_mask": mask})}


def under(model, function, **inputs):
    """Run `function` at every call; returns the model's output and the patch."""
    with attnpatch.apply(model, Probe(function)) as patch, torch.no_grad():
        return model(**inputs), patch


def attended(call, inner, rule):
    return inner(call) if rule is None else call.attend(rule if call.site.window is None else Window(3))


def real(call) -> torch.Tensor:
    """Bool `[B, Q]`: rows of real tokens; what padded rows hold is nobody's business."""
    at = torch.arange(call.offset, call.end)
    spans = call.spans or [(0, call.end)] * call.query.shape[0]
    return torch.stack([(at >= start) & (at < stop) for start, stop in spans])


def same_parts(call, part, found, expected, rows=slice(None), queries=slice(None)) -> bool:
    here = real(call)[rows][:, queries]
    assert torch.equal(here, real(part))
    assert torch.equal(part.hidden, call.hidden[rows][:, queries])
    return torch.allclose(found[0][here], expected[0][rows][:, queries][here], atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["plain", "left", "right"])
@pytest.mark.parametrize("family, base", MODELS)
def test_parts_equal_the_whole(family, base, kind, rule):
    seen = []

    def compare(call, inner):
        expected = attended(call, inner, RULES[rule])
        for rows in ([1], [2, 0], [0, 1, 2]):
            part = call.of_rows(rows)
            assert same_parts(call, part, attended(part, inner, RULES[rule]), expected, rows=rows), rows
        for first, last in QUERIES:
            part, queries = call.of_queries(first, last), slice(first, last)
            assert (part.offset, part.end) == (call.offset + first, call.offset + last)
            assert same_parts(call, part, attended(part, inner, RULES[rule]), expected, queries=queries), queries
        part = call.of_rows([2, 0]).of_queries(3, 4)
        found = attended(part, inner, RULES[rule])
        assert same_parts(call, part, found, expected, rows=[2, 0], queries=slice(3, 4))
        seen.append(call.layer)
        return expected

    model = zoo.build(family, attn_implementation=base)
    with torch.no_grad():
        stock = model(**batch(kind)).logits
    out, _ = under(model, compare, **batch(kind))
    assert seen == list(range(model.config.num_hidden_layers))
    assert rule != "stock" or torch.equal(out.logits, stock)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_parts_behind_a_cache(family):
    model, inputs = zoo.build(family), batch("left")

    def compare(call, inner):
        expected = inner(call)
        if call.offset:
            for part, options in (
                (call.of_rows([2, 0]), {"rows": [2, 0]}),
                (call.of_queries(0, 1), {"queries": slice(0, 1)}),
                (call.of_queries(1, 3), {"queries": slice(1, 3)}),
            ):
                assert same_parts(call, part, inner(part), expected, **options)
                assert same_parts(call, part, part.attend(part.own_rule), expected, **options)
        return expected

    cache, mask = DynamicCache(config=model.config), inputs["attention_mask"]
    with attnpatch.apply(model, Probe(compare)) as patch, torch.no_grad():
        for own in (slice(0, 6), slice(6, 9)):
            model(inputs["input_ids"][:, own], attention_mask=mask[:, : own.stop], past_key_values=cache)
        assert patch.report().calls == 2 * model.config.num_hidden_layers


@pytest.mark.parametrize("kind", ["plain", "left", "right"])
def test_budgets_of_parts_add_up(kind):
    def whole(call, inner):
        return call.attend(Window(3, 1))

    def by_rows(call, inner):
        parts = [call.of_rows(rows).attend(Window(3, 1))[0] for rows in ([0, 1], [2])]
        return torch.cat(parts), None

    def by_queries(call, inner):
        return torch.cat([call.of_queries(a, b).attend(Window(3, 1))[0] for a, b in ((0, 4), (4, 9))], 1), None

    model, found = zoo.build("llama"), []
    for function in (whole, by_rows, by_queries):
        out, patch = under(model, function, **batch(kind))
        counts = [stats.pairs_and_queries(decode=False) for _, _, stats in patch.placements()]
        found.append((counts, out.logits))
    assert found[0][0] == found[1][0] == found[2][0]
    assert found[0][0][0][1] == int(batch(kind).get("attention_mask", torch.ones(3, LENGTH)).sum())


def test_parts_of_a_ready_made_mask():
    model, inputs = zoo.build("llama"), batch("plain")
    allowed = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    allowed[5:, 2] = False

    def compare(call, inner):
        expected = inner(call)
        for rows in ([1], [2, 0]):
            assert torch.allclose(inner(call.of_rows(rows))[0], expected[0][rows], atol=1e-5)
        for first, last in ((0, 4), (4, 5), (5, 9)):
            assert torch.allclose(inner(call.of_queries(first, last))[0], expected[0][:, first:last], atol=1e-5)
        with pytest.raises(attnpatch.UnsupportedCallError, match="2-D attention_mask"):
            call.of_rows([1]).attend(Window(3))
        return expected

    for rows in (1, 3):
        under(model, compare, **inputs, attention_mask=allowed[None, None].expand(rows, 1, -1, -1))


def test_masks_of_parts_are_made_once_for_all_layers():
    masks = {}

    def collect(call, inner):
        for key, part in (("rows", call.of_rows([1])), ("queries", call.of_queries(2, 4))):
            masks.setdefault(key, set()).add(id(part.mask))
        return inner(call)

    under(zoo.build("llama"), collect, **batch("left"))
    assert {key: len(ids) for key, ids in masks.items()} == {"rows": 1, "queries": 1}


def test_a_forward_and_its_parts_go_without_the_garbage_collector():
    alive = []

    def collect(call, inner):
        call.of_queries(0, 4).of_rows([0])
        alive.extend(weakref.ref(x) for x in (call.query, call.of_rows([1]).mask))
        return inner(call)

    gc.collect()
    gc.disable()
    try:
        under(zoo.build("llama"), collect, **batch("left"), use_cache=False)
        assert [one() for one in alive] == [None] * len(alive)
    finally:
        gc.enable()
