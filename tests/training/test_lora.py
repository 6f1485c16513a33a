"""Adapters: ordinary peft adapters that load without us, alone, beside routers, and under a fixed router."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attnpatch
from attnpatch.training.problems import TrainingError
from attnpatch.training.recipe import load_recipe
from attnpatch.training.run import Run

from .runs import FLUX, log_of, routed, run, save_model, state_of

WITHOUT_US = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2]).eval()
with torch.no_grad():
    torch.save(model(torch.arange(5, 37)[None]).logits, sys.argv[3])
assert not any(name.partition(".")[0] == "attnpatch" for name in sys.modules)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def shipped(model, tmp_path_factory):
    """The shipped recipe, shortened, and the trainee it left."""
    folder = tmp_path_factory.mktemp("shipped")
    overrides = {
        "model": str(model), "training.output_dir": str(folder), "training.max_steps": 3, "data.pack_tokens": 256,
        "training.warmup_ratio": 0, "data.sources.0.lengths": [128], "evaluation": None, "lora.learning_rate": 0.02,
    }  # fmt: skip
    kept: dict[str, Run] = {}
    with pytest.MonkeyPatch.context() as patches:

        def remembered(self, *args, honest=Run.__init__):
            honest(self, *args)
            kept["run"] = self
            self.before = {name: value.clone() for name, value in args[1].state_dict().items()}

        patches.setattr(Run, "__init__", remembered)
        run(load_recipe("lora/sandbox-sliding", overrides))
    return folder, kept["run"]


def test_it_loads_without_us(model, shipped, tmp_path):
    folder, done = shipped
    with torch.no_grad():
        expected = done.trainee.model(torch.arange(5, 37)[None]).logits
        done.trainee.model.disable_adapter_layers()
        stock = done.trainee.model(torch.arange(5, 37)[None]).logits
        done.trainee.model.enable_adapter_layers()
    out = tmp_path / "logits.pt"
    words = [sys.executable, "-c", WITHOUT_US, str(model), str(folder / "adapter"), str(out)]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    found = torch.load(out)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, stock, atol=1e-3)


def test_the_model_itself_is_as_it_was(shipped):
    _, done = shipped
    after = done.trainee.adapter.get_base_model().state_dict()
    changed = [name for name, value in done.before.items() if not torch.equal(value, after[name])]
    assert changed
    assert all("lora_" in name for name in changed)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in done.trainee.trained_state()} == {"default"}


def test_what_is_written(model, shipped):
    folder, _ = shipped
    assert {path.name for path in folder.iterdir()} == {"adapter", "checkpoints", "recipe.yaml", "train_log.jsonl"}
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (8, 16, "LORA")
    assert config["base_model_name_or_path"] == "tiny"
    card = (folder / "adapter" / "README.md").read_text()
    assert "PeftModel.from_pretrained" in card
    assert "attnpatch.apply(model, 'sliding', window=64, sink=4)" in card
    assert "| step | nll | tokens |" in card
    for text in (card, json.dumps(config)):
        assert str(model.parent) not in text
        assert str(folder) not in text
    assert {"omega", "multipliers"}.isdisjoint(log_of(folder)[0])


def test_embeddings_are_not_saved(shipped):
    from safetensors import safe_open

    with safe_open(shipped[0] / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118 - not a dict


def test_router_and_adapter_together(model, tmp_path):
    run(routed(model, tmp_path, lora={"r": 2}, training={"max_steps": 2}))
    trained = state_of(tmp_path, 2)["trained"]
    assert {name.partition(".")[0] for name in trained} == {"adapter", "routers", "multipliers"}
    assert {"router", "adapter"} <= {path.name for path in tmp_path.iterdir()}
    moved = [value for name, value in trained.items() if "lora_B" in name]
    assert all(float(value.abs().max()) > 0 for value in moved)  # they start at 0
    assert {"omega", "nll"} <= log_of(tmp_path)[0].keys()


def test_an_adapter_under_a_trained_router(model, tmp_path):
    """flux with a router of its own decides as ever, and only the adapter is trained."""
    run(routed(model, tmp_path / "first", training={"max_steps": 1}))
    router = tmp_path / "first" / "router"
    method = {"name": "flux", "options": {"router": str(router)}}
    run(routed(model, tmp_path / "second", method=method, router=None, lora={"r": 2}, training={"max_steps": 2}))
    assert not (tmp_path / "second" / "router").exists()
    trained = state_of(tmp_path / "second", 2)["trained"]
    assert {name.partition(".")[0] for name in trained} == {"adapter"}
    assert "omega" not in log_of(tmp_path / "second")[0]
    card = (tmp_path / "second" / "adapter" / "README.md").read_text()
    assert str(tmp_path) not in card

    plan = {"name": "flux", "options": {**FLUX["options"], "plan": "fs"}}
    run(routed(model, tmp_path / "third", method=plan, router=None, lora={"r": 2}, training={"max_steps": 1}))
    assert (tmp_path / "third" / "adapter" / "adapter_model.safetensors").exists()


def test_the_adapter_of_a_run_works_with_the_method(model, shipped):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, _ = shipped
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder / "adapter").eval()
    with attnpatch.apply(loaded, "sliding", window=8, sink=2), torch.no_grad():
        assert torch.isfinite(loaded(torch.arange(5, 37)[None]).logits).all()


def test_without_peft(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(TrainingError, match=r'peft: pip install "attnpatch\[train\]"'):
        run(routed(model, tmp_path, router=None, method={"name": "sliding", "options": {"window": 8}}, lora={}))
    assert not list(tmp_path.iterdir())


def test_modules_that_are_not_there(model, tmp_path):
    given = routed(model, tmp_path, lora={"target_modules": ["query"]})
    with pytest.raises(ValueError, match="query"):
        run(given)
