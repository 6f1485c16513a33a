"""`attnpatch inspect`: sites and verdicts from a config alone, for every family."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from attnpatch.bench.models import skeleton
from attnpatch.cli.inspect_model import ranges
from attnpatch.patching import inspect_model
from tests import zoo

from .conftest import refused

FAMILIES = {**zoo.TEXT_CONFIGS, **zoo.VLM_CONFIGS}


@pytest.fixture
def saved(tmp_path):
    """Saves a family's config, without weights, and returns the folder."""

    def save(family):
        (FAMILIES | zoo.REFUSED_CONFIGS)[family]().save_pretrained(tmp_path / family)
        return tmp_path / family

    return save


@pytest.mark.parametrize("family", FAMILIES)
def test_the_skeleton_has_the_sites_of_the_real_model(family):
    bare = skeleton(FAMILIES[family]())
    assert {parameter.device.type for parameter in bare.parameters()} == {"meta"}
    on_meta, real = inspect_model(bare), inspect_model(zoo.build(family))
    assert on_meta.sites == real.sites
    assert on_meta.skipped == real.skipped


def test_a_folder_with_nothing_but_a_config(attnpatch, saved):
    folder = saved("gemma3_text")
    assert [file.name for file in folder.iterdir()] == ["config.json"]
    result = attnpatch("inspect", folder)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "Gemma3ForCausalLM, 6 layers, attention over sdpa" in text
    assert "0-4" in text  # five sliding layers share a row, the sixth is full
    assert "layers 0-4: the layer has a sliding window of its own" in text


def test_json(attnpatch, saved):
    shown = json.loads(attnpatch("inspect", saved("gemma2"), "--json").stdout)
    assert shown["class"] == "Gemma2ForCausalLM"
    assert shown["layers"] == len(shown["sites"]) == 2
    first, second = shown["sites"]
    assert (first["kind"], first["window"], second["kind"], second["window"]) == ("sliding", 8, "full", None)
    assert (first["heads"], first["kv_heads"], first["softcap"]) == (4, 2, True)
    methods = {verdict["method"]: verdict for verdict in shown["methods"]}
    assert methods["stock"]["layers"] == [0, 1]
    assert methods["sliding"]["layers"] == []
    (reason,) = methods["sliding"]["refused"]
    assert "softcap" in reason


def test_layers_that_cannot_be_patched_are_listed_with_the_reason(attnpatch, saved):
    shown = json.loads(attnpatch("inspect", saved("qwen3_next"), "--json").stdout)
    assert len(shown["sites"]) == 1
    assert len(shown["skipped"]) == 3
    assert all("linear or recurrent" in skip["reason"] for skip in shown["skipped"])


def test_an_8b_model_needs_no_memory(attnpatch, tmp_path):
    transformers.Qwen3Config(
        hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8
    ).save_pretrained(tmp_path)
    result = attnpatch("inspect", tmp_path)
    assert "0-35" in result.stdout
    assert "36 of 36 layers" in result.stdout


def test_sandbox_and_chosen_methods(attnpatch, small_sandbox):
    result = attnpatch("inspect", "sandbox:text", "-m", "sliding:window=64", "-m", "stock", "--json")
    assert [verdict["method"] for verdict in json.loads(result.stdout)["methods"]] == ["sliding:window=64", "stock"]


def test_a_method_about_images(attnpatch):
    shown = json.loads(attnpatch("inspect", "sandbox:vision", "-m", "vhr", "-m", "pai:first_layer=3", "--json").stdout)
    assert [verdict["layers"] for verdict in shown["methods"]] == [[1, 2, 3], [3]]


def test_nothing_is_left_on_the_meta_device(attnpatch, saved):
    attnpatch("inspect", saved("llama"))
    assert torch.empty(1).device.type == "cpu"


@pytest.mark.parametrize("family", zoo.REFUSED_CONFIGS)
def test_refused_families_give_the_reason(attnpatch, saved, family):
    refused(attnpatch("inspect", saved(family)), "cannot be patched", "attention")


def test_unknown_things(attnpatch, small_sandbox):
    refused(attnpatch("inspect", "sandbox:txt"), "'txt'", "Did you mean 'text'?")
    refused(attnpatch("inspect", "sandbox:text", "-m", "slidng"), "Did you mean 'sliding'?")
    refused(attnpatch("inspect", "sandbox:text", "-m", "sliding:windw=3"), "'windw'", "Did you mean 'window'?")
    refused(attnpatch("inspect", "sandbox:text", "-m", "sliding:window=0"), "window=0", "greater than or equal to 1")


def test_models_that_are_not_there(attnpatch, tmp_path):
    refused(attnpatch("inspect", tmp_path / "nothing"), "no such folder", "sandbox:text", "sandbox:vision")
    refused(attnpatch("inspect", tmp_path), "no config.json")
    (tmp_path / "config.json").write_text("{ not json")
    refused(attnpatch("inspect", tmp_path / "config.json"), "is a file")
    refused(attnpatch("inspect", tmp_path), "cannot be loaded", "not a valid JSON")
    (tmp_path / "config.json").write_text('{"model_type": "no_such_architecture"}')
    refused(attnpatch("inspect", tmp_path), "cannot be loaded", "no_such_architecture")
    refused(attnpatch("inspect", "Qwen/Qwen3-8B"), "not in the local Hugging Face cache", "hf download Qwen/Qwen3-8B")


def test_remote_code_is_off_by_default(attnpatch, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "their_own", "auto_map": {"AutoConfig": "configuration_their_own.TheirConfig"}})
    )
    (tmp_path / "configuration_their_own.py").write_text(
        "from pathlib import Path\n"
        "from transformers import PreTrainedConfig\n\n"
        "Path(__file__).with_name('ran').touch()\n\n\n"
        "class TheirConfig(PreTrainedConfig):\n    model_type = 'their_own'\n"
    )
    refused(attnpatch("inspect", tmp_path), "--trust-remote-code")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["T5Config", "ViTConfig", "MambaConfig", "MusicgenConfig"])
def test_models_without_patchable_text_attention(attnpatch, tmp_path, name):
    if name == "MusicgenConfig":
        text = {"model_type": "musicgen"}
        (tmp_path / "config.json").write_text(json.dumps(text))
    else:
        getattr(transformers, name)().save_pretrained(tmp_path)
    refused(attnpatch("inspect", tmp_path))


@pytest.mark.parametrize("numbers, text", [([0], "0"), ([3, 1, 2], "1-3"), ([0, 1, 5, 6, 9], "0-1, 5-6, 9"), ([], "")])
def test_ranges(numbers, text):
    assert ranges(numbers) == text
