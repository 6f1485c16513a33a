"""Query states before RoPE, computed from a site's own projection, against what the module computes itself."""

from __future__ import annotations

import pytest
import torch

import attnpatch
from attnpatch.methods.flux.router import shape_for
from attnpatch.patching.queries import queries_before_rope, query_dim
from attnpatch.patching.sites import inspect_model
from tests import zoo
from tests.patching.test_parts import Probe

NORMED = ["qwen3", "gemma3_text", "olmo2", "qwen3_moe"]  # a norm between projection and RoPE
PLAIN = ["llama", "llama_mha", "gpt_oss", "glm4", "cohere2", "granite", "smollm3", "mistral"]
WITHOUT = ["phi3", "gpt_neox", "gpt2", "deepseek_v3", "qwen3_next", "qwen3_5"]
IDS = torch.arange(5, 14)[None]
READ = slice(2, 7)


def outputs_of(model, step: str) -> list[torch.Tensor]:
    """What the modules named `step` return in one forward, in the order of the layers."""
    found = []
    handles = [
        module.register_forward_hook(lambda module, args, output: found.append(output))
        for name, module in model.named_modules()
        if name.endswith(step)
    ]
    with torch.no_grad():
        model(IDS)
    for handle in handles:
        handle.remove()
    return found


def by_heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    """`[B, T, H, D]` of what a model has before RoPE: flat, heads first, or heads last."""
    if states.ndim == 4 and states.shape[1] == heads and states.shape[2] == IDS.shape[1]:
        states = states.transpose(1, 2)
    return states.reshape(1, IDS.shape[1], heads, -1)


def compare_layers(model, patched, step: str) -> None:
    expected, layers = outputs_of(model, step), []

    def compare(call, inner):
        dim = query_dim(call.module, call.site)
        found = queries_before_rope(call.module, call.hidden[:, READ], dim)
        assert found.shape == (1, 5, call.site.heads, dim)
        assert torch.allclose(found, by_heads(expected[call.layer], call.site.heads)[:, READ], atol=1e-5)
        layers.append(call.layer)
        return inner(call)

    with attnpatch.apply(patched, Probe(compare)), torch.no_grad():
        patched(IDS)
    assert layers == list(range(model.config.num_hidden_layers))
    assert len(expected) == len(layers)


@pytest.mark.parametrize("family", NORMED + PLAIN)
def test_they_are_what_the_module_computes(family):
    model = zoo.build(family)
    with torch.no_grad():
        for name, one in model.named_parameters():  # a fresh norm scales by one: leaving it out would hardly show
            if "q_norm" in name:
                one.add_(torch.linspace(0.1, 1.0, one.numel()).view_as(one))
    assert any("q_norm" in name for name, _ in model.named_modules()) == (family in NORMED)
    compare_layers(model, model, "q_norm" if family in NORMED else "q_proj")


def test_under_lora():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapted = get_peft_model(
        zoo.build("qwen3"), LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    plain = outputs_of(zoo.build("qwen3"), "q_norm")
    inner = adapted.get_base_model()
    assert not torch.allclose(plain[0], outputs_of(inner, "q_norm")[0], atol=1e-3)
    compare_layers(inner, adapted.eval(), "q_norm")


@pytest.mark.parametrize("family", NORMED + PLAIN + WITHOUT)
def test_what_routers_read(family):
    model = zoo.build(family)
    text = inspect_model(model)
    shape = shape_for(text.base, text.sites, "auto", 100)
    if family in WITHOUT:
        assert shape.reads == "hidden"
        assert shape.inputs == model.config.hidden_size
        with pytest.raises(ValueError, match="no query projection of its own"):
            shape_for(text.base, text.sites, "query", 100)
    else:
        assert shape.reads == "query"
        assert shape.inputs == shape.width == getattr(model.config, "head_dim", 8)
        assert shape_for(text.base, text.sites, "hidden", 100).inputs == model.config.hidden_size


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3", "gpt_oss", "qwen3_next"])
def test_routers_decide_on_every_family(family):
    model, gates = zoo.build(family), set()
    for seed in range(6):
        with attnpatch.apply(model, "flux", router="untrained", seed=seed, local=3, sink=1) as patch, torch.no_grad():
            model(IDS)
            gates.add(tuple(gate for row in patch.methods[0].gates.values() for gate in row))
    assert len(gates) > 1
