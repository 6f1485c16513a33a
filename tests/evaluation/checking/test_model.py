"""What check says about a model: in folders, in the Hub's cache, behind a gate, and about the memory it takes."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from attnpatch.evaluation.checking import all_there, machine
from attnpatch.evaluation.errors import UsageError
from tests import zoo
from tests.evaluation.conftest import byte_tokenizer

HUB = "owner/tiny"


@pytest.fixture
def cache(tmp_path, monkeypatch, checkpoint):
    """A Hub cache that holds the config and the tokenizer of owner/tiny; returns the folder of its files."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--owner--tiny"
    files = root / "snapshots" / ("0" * 40)
    shutil.copytree(checkpoint, files)
    (files / "model.safetensors").unlink()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    return files


@pytest.fixture
def hub(monkeypatch):
    """`hub(gated=..., token=...)`: the Hub answers."""

    def answer(gated, token=None):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "model_info", lambda *args, **options: SimpleNamespace(gated=gated))
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)

    return answer


def test_a_folder_with_everything(look, checkpoint):
    found = look()
    assert all_there(found.values())
    assert {one.status for one in found.values()} == {"ok"}
    assert "Qwen3ForCausalLM" in found["model", str(checkpoint)].found
    assert found["model", "attention"].found == "2 layers can be patched"
    assert ("model", "access") not in found
    assert found["machine", "device"].found.endswith("float32")


def test_a_folder_that_is_not_there(look):
    found = look("./no/such/folder")
    assert "does not exist" in found["model", "./no/such/folder"].found
    assert found["method", "stock"].status == found["task", "needle"].status == "unknown"
    assert not all_there(found.values())


def test_usage_errors_are_errors(look, checkpoint):
    with pytest.raises(UsageError, match="Did you mean 'float32'"):
        look(request={"dtype": "float31"})


def test_a_model_that_is_not_in_the_cache(look):
    found = look("owner/nowhere")
    assert "not in the local Hugging Face cache" in found["model", "owner/nowhere"].found
    assert "`hf download owner/nowhere`" in found["model", "owner/nowhere"].fix
    assert found["model", "access"].status == "unknown"  # HF_HUB_OFFLINE is set


def test_weights_are_looked_up_and_not_read(look, cache):
    assert "`hf download owner/tiny`" in look(HUB)["model", "weights"].fix
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (cache / "model.safetensors.index.json").write_text(json.dumps(index))
    (cache / "model-1.safetensors").write_text("no weights")
    assert look(HUB)["model", "weights"].found == "1 of 2 files are not in the local Hugging Face cache"
    (cache / "model-2.safetensors").write_text("no weights")
    found = look(HUB)
    assert found["model", "weights"].found == "in the cache, 2 files"
    assert all_there(found.values())


@pytest.mark.parametrize(
    "gated, token, status, words",
    [
        (False, None, "ok", "not gated"),
        ("manual", None, "missing", "you are not logged in"),
        ("auto", "hf_x", "unknown", "whether you accepted its terms"),
    ],
)
def test_gates(look, cache, hub, gated, token, status, words):
    hub(gated, token)
    found = look(HUB)["model", "access"]
    assert (found.status, words in found.found) == (status, True)
    if status == "missing":
        assert found.fix == "accept its terms on https://huggingface.co/owner/tiny, then `hf auth login`"


def test_a_hub_that_does_not_answer(look, cache, hub, monkeypatch):
    hub(False)

    def refuse(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "model_info", refuse)
    found = look(HUB)["model", "access"]
    assert (found.status, found.found) == ("unknown", "the Hub does not answer for it: no route")


def test_lengths_above_the_positions(look, tmp_path):
    zoo.tiny_qwen3(300, positions=512).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    found = look(tmp_path, lengths=[256, "1k", "2k"])
    assert found["model", "positions"].found == "512, fewer than the lengths 1024, 2048"
    assert "--lengths up to 512" in found["model", "positions"].fix
    assert found["task", "needle"].status == "ok"
    nothing = look(tmp_path, lengths=["1k"])
    assert nothing["task", "needle"].found == "no length fits into the model"


def test_chat_template(look):
    assert ("model", "chat template") not in look()
    assert look(chat_template=True)["model", "chat template"].status == "missing"


def test_a_model_that_cannot_be_patched(look, tmp_path):
    zoo.REFUSED_CONFIGS["falcon"]().save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_text("")
    found = look(tmp_path)
    assert found["model", "attention"].status == "missing"
    assert "Falcon" in found["model", "attention"].found


def test_memory(look, monkeypatch, sandbox_model):
    weights = sum(one.numel() for one in sandbox_model.parameters()) * 4
    heads = sandbox_model.config.num_key_value_heads * sandbox_model.config.head_dim
    cache = 2 * 2 * heads * 96 * 3 * 4  # keys and values, layers, tokens, documents, bytes
    monkeypatch.setattr(machine, "_free", lambda spread: weights + cache)
    assert look(batch_size=3)["machine", "memory"].status == "ok"
    monkeypatch.setattr(machine, "_free", lambda spread: weights + cache - 1)
    found = look(batch_size=3)["machine", "memory"]
    assert found.status == "missing"
    assert "--dtype bfloat16" in found.fix
    assert look(batch_size=3, request={"dtype": "bfloat16"})["machine", "memory"].status == "ok"


def test_a_device_map_needs_accelerate(look, monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert look(request={"device_map": "auto"})["machine", "device"].found == "--device-map needs accelerate"
