"""The method in CONTRIBUTING.md is a working one."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import attnpatch
from attnpatch.patching import method as registry

GUIDE = Path(__file__).resolve().parent.parent / "CONTRIBUTING.md"


def test_the_example_method_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    block = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1]
    exec(compile(textwrap.dedent(block), str(GUIDE), "exec"), {"__name__": "echo_example"})
    echo = attnpatch.methods()["echo"]

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes)).eval()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        stock = model(ids).logits
        with attnpatch.apply(model, "echo", **echo.neutral_options):
            assert torch.equal(model(ids).logits, stock)
        for options in echo.small_options:
            with attnpatch.apply(model, "echo", **options):
                assert not torch.allclose(model(ids).logits, stock)
        assert torch.equal(model(ids).logits, stock)
