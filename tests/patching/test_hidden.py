"""A layer's input is handed down while a method asks for it, and not a forward longer."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import attnpatch
from attnpatch.patching.method import Method
from tests import zoo
from tests.patching.test_parts import Probe
from tests.snapshots import structure

IDS = torch.arange(5, 14)[None]


class Reader(Method):
    """Refuses to run without the layer's input."""

    name = "reader"
    needs_hidden = True

    def attend(self, call, inner):
        assert call.hidden.shape == (1, call.query.shape[2], 32)
        return inner(call)


def hooks(model) -> int:
    return sum(len(module._forward_pre_hooks) for name, module in model.named_modules() if name.endswith("attn"))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "qwen3_next"])
def test_it_is_what_the_attention_module_got(family):
    model, got, seen = zoo.build(family), {}, []

    def compare(call, inner):
        assert torch.equal(call.hidden, got[call.layer])
        seen.append(call.layer)
        return inner(call)

    for module in model.modules():
        if hasattr(module, "layer_idx"):
            module.register_forward_pre_hook(
                lambda module, args, kwargs: got.__setitem__(
                    module.layer_idx, kwargs.get("hidden_states", args[0] if args else None)
                ),
                with_kwargs=True,
            )
    with attnpatch.apply(model, Probe(compare)) as patch:
        logits(model)
        assert len(seen) == len(patch.report().sites)


def test_the_hook_is_there_while_a_method_asks():
    model = zoo.build("llama")
    before, stock = structure(model), logits(model)
    with attnpatch.apply(model, "stock"):
        assert hooks(model) == 0
        first, second = attnpatch.apply(model, Reader(), layers=[0]), attnpatch.apply(model, Reader())
        assert hooks(model) == 2
        assert torch.equal(stock, logits(model))
        with second.disabled():
            assert hooks(model) == 1
            with first.disabled():
                assert hooks(model) == 0
                logits(model)
        assert hooks(model) == 2
        second.remove()
        assert hooks(model) == 1
        first.remove()
        assert hooks(model) == 0
    assert structure(model) == before


@pytest.mark.parametrize("options, count", [({"plan": "fs"}, 0), ({"router": "untrained"}, 2)])
def test_flux_asks_only_where_it_has_a_router(options, count):
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", **options):
        assert hooks(model) == count
        logits(model)
    assert hooks(model) == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_hooks_of_its_own(copied):
    model = zoo.build("llama")
    patch = attnpatch.apply(model, Reader())
    twin = copied(model)
    patch.remove()
    assert (hooks(model), hooks(twin)) == (0, 2)
    logits(twin)
    attnpatch.patches(twin)[0].remove()
    assert hooks(twin) == 0
    assert torch.equal(logits(model), logits(twin))
