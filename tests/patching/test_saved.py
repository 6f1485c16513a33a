"""Trained methods on disk and on the Hub: what goes out comes back, and what is broken says so."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import attnpatch
from attnpatch import AttnPatchError
from attnpatch.methods.flux import Flux
from attnpatch.patching import saved
from tests import zoo
from tests.methods.flux_cases import gates_of, generated, logits, mixed, prompt
from tests.snapshots import generated_logits, same, structure

CONFIG, TENSORS = "attnpatch_config.json", "attnpatch.safetensors"


def save_router(folder):
    """A router for the tiny llama in `folder`, with options other than the defaults."""
    options, _, _ = mixed()
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", **options, sparse="triangle", sparse_options={"last": 2}) as patch:
        assert patch.save_pretrained(folder) == folder
    return folder


@pytest.fixture
def folder(tmp_path):
    return save_router(tmp_path / "router")


# There and back


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3_text", "qwen3"])
def test_what_is_saved_comes_back(family, tmp_path):
    options, one, two = mixed(family)
    model = zoo.build(family)
    expected = generated(model, options, {"input_ids": one}), generated(model, options, {"input_ids": two})
    with attnpatch.apply(model, "flux", **options) as patch:
        patch.save_pretrained(tmp_path)
    for load in (
        lambda: attnpatch.load(model, tmp_path),
        lambda: attnpatch.load(model, str(tmp_path)),
        lambda: attnpatch.apply(model, "flux", router=str(tmp_path)),
        lambda: attnpatch.apply(model, Flux.from_pretrained(tmp_path)),
    ):
        with load() as patch:
            for ids, (tokens, found, gates) in zip((one, two), expected, strict=True):
                assert same((tokens, found), generated_logits(model, {"input_ids": ids}))
                assert gates_of(patch) == gates


def test_options_are_saved_and_can_be_changed(folder):
    model = zoo.build("llama")
    with attnpatch.load(model, folder) as patch:
        config = patch.methods[0].config
        assert (config.sparse, config.sparse_options, config.local, config.sink) == ("triangle", {"last": 2}, 4, 1)
        assert patch.methods[0].arm.config.last == 2
    with attnpatch.load(model, folder, sparse="sliding", sparse_options={}, local=6, decode="dense") as patch:
        config = patch.methods[0].config
        assert (config.sparse, config.sparse_options, config.local, config.sink) == ("sliding", {}, 6, 1)
        assert config.decode == "dense"
    with attnpatch.load(model, folder, layers=[1]) as patch:
        logits(model, **prompt())
        assert list(gates_of(patch)) == [1]


def test_the_files(folder):
    described = json.loads((folder / CONFIG).read_text())
    assert described["method"] == "flux"
    assert described["format"] == 1
    assert described["model"]["model_type"] == "llama"
    assert set(described["versions"]) == {"torch", "transformers"}
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", TENSORS, CONFIG]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: attnpatch\n")
    assert "attnpatch.load(model" in card
    assert (folder / TENSORS).stat().st_mode & 0o777 == 0o644
    wanted = Flux.from_pretrained(folder)
    assert set(load_file(folder / TENSORS)) == set(wanted.saved.tensors)


@pytest.mark.parametrize("gone", [False, True])
def test_no_path_of_this_machine_goes_out(tmp_path, gone):
    zoo.build("llama").save_pretrained(tmp_path / "checkpoint")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint").eval()
    if gone:
        (tmp_path / "checkpoint").rename(tmp_path / "moved")
    with attnpatch.apply(model, "flux", router="untrained") as patch:
        patch.save_pretrained(tmp_path / "router")
    for path in (tmp_path / "router").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    assert json.loads((tmp_path / "router" / CONFIG).read_text())["model"]["name"] is None


def test_a_hub_id_is_named_and_a_card_can_be_given(tmp_path):
    model = zoo.build("llama")
    model.config._name_or_path = "owner/some-model.v2"
    with attnpatch.apply(model, "flux", router="untrained") as patch:
        patch.save_pretrained(tmp_path)
        assert "base_model: owner/some-model.v2\n" in (tmp_path / "README.md").read_text()
        patch.save_pretrained(tmp_path, card="# Ω of mine\n")
        assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Ω of mine\n"


def test_the_model_does_not_know_of_its_routers(tmp_path):
    model = zoo.build("llama")
    model.save_pretrained(tmp_path / "before")  # notes its class in the config
    before, stock = structure(model), logits(model, **prompt())
    names, count = list(model.state_dict()), sum(one.numel() for one in model.parameters())
    with attnpatch.apply(model, "flux", router="untrained", local=4, sink=1) as patch:
        logits(model, **prompt())
        assert list(model.state_dict()) == names
        assert sum(one.numel() for one in model.parameters()) == count
        patch.save_pretrained(tmp_path / "router")
        model.save_pretrained(tmp_path / "model")
    assert structure(model) == before
    assert (
        list(load_file(tmp_path / "model" / "model.safetensors").keys() & load_file(tmp_path / "router" / TENSORS))
        == []
    )
    for file in (tmp_path / "before").iterdir():
        assert file.read_bytes() == (tmp_path / "model" / file.name).read_bytes()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert torch.equal(stock, logits(again, **prompt()))


def test_what_has_nothing_trained_is_not_saved(tmp_path):
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", plan="full") as patch:
        with pytest.raises(AttnPatchError, match="one trained method, this one has none"):
            patch.save_pretrained(tmp_path)
        with pytest.raises(AttnPatchError, match="no trained parameters"):
            saved.save(patch.methods[0], model.config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_push_to_hub(monkeypatch):
    seen = {}

    class FakeApi:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, **options):
            seen["repo"] = (repo_id, options)

        def upload_folder(self, *, repo_id, folder_path, **options):
            seen["files"] = sorted(path.name for path in saved.Path(folder_path).iterdir())
            seen["upload"] = (repo_id, options)
            return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", router="untrained") as patch:
        address = patch.push_to_hub("me/router", private=True, token="t", commit_message="first")
    assert address == "https://hub/me/router/commit/1"
    assert seen == {
        "token": "t",
        "repo": ("me/router", {"private": True, "exist_ok": True}),
        "files": ["README.md", TENSORS, CONFIG],
        "upload": ("me/router", {"commit_message": "first"}),
    }
    seen.clear()
    with attnpatch.apply(model, "flux", plan="full") as patch, pytest.raises(AttnPatchError, match="one trained"):
        patch.push_to_hub("me/router")
    assert "repo" not in seen


def test_from_the_hub(folder, monkeypatch):
    asked = []

    def fetch(name, **options):
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    model = zoo.build("llama")
    with attnpatch.load(model, "owner/router") as patch:
        assert patch.methods[0].config.router == "owner/router"
    assert {name for name, _ in asked} == {"owner/router"}
    assert asked[0][1] == {"allow_patterns": [CONFIG, TENSORS]}


def test_what_ships_with_the_package(folder, monkeypatch):
    model = zoo.build("llama")
    monkeypatch.setattr(saved, "_SHIPPED", folder.parent)
    with attnpatch.load(model, "sandbox:router") as patch:
        logits(model, **prompt())
        assert gates_of(patch)
    for name in ("sandbox:ruter", "sandbox:../router", "sandbox:x/router", "sandbox:"):
        with pytest.raises(AttnPatchError, match="Allowed: sandbox:router"):
            attnpatch.load(model, name)
    with pytest.raises(AttnPatchError, match="Did you mean 'router'"):
        attnpatch.load(model, "sandbox:ruter")
    monkeypatch.setattr(saved, "_SHIPPED", folder)
    with pytest.raises(AttnPatchError, match="none in this installation"):
        attnpatch.load(model, "sandbox:router")
