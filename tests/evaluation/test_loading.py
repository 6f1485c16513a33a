"""Checkpoints: folders load safely, and whatever is wrong with one is said in a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from huggingface_hub import errors

from attnpatch.evaluation.errors import LoadingError, UsageError
from attnpatch.evaluation.loading import CheckpointSource, ModelRequest


@pytest.fixture
def copy(checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    return folder


def source(model, **options) -> CheckpointSource:
    return CheckpointSource(ModelRequest(str(model), **options))


def edit_config(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_folder(checkpoint, sandbox_model):
    found = source(checkpoint)
    model = found.load()
    assert not model.training
    assert model.dtype is torch.float32
    assert torch.equal(model.lm_head.weight.cpu(), sandbox_model.lm_head.weight)
    assert found.identity.dtype == "float32"
    assert found.identity.fingerprint == source(checkpoint).identity.fingerprint


@pytest.mark.parametrize("name", ["bf16", "bfloat16"])
def test_dtype(checkpoint, name):
    found = source(checkpoint, dtype=name, attn_implementation="eager")
    model = found.load()
    assert model.dtype is torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert found.identity.dtype == "bfloat16"


def test_device_map(checkpoint):
    model = source(checkpoint, device_map="cpu").load()
    assert model.device.type == "cpu"


def test_fingerprint_follows_the_files(copy):
    before = source(copy).identity.fingerprint
    edit_config(copy, rms_norm_eps=1e-5)
    assert source(copy).identity.fingerprint != before


def test_unknown_dtype(checkpoint):
    with pytest.raises(UsageError, match=r"unknown dtype 'float31'. Did you mean 'float32'"):
        source(checkpoint, dtype="float31")


def test_missing_folder():
    with pytest.raises(LoadingError, match=r"does not exist.*sandbox:text or sandbox:vision"):
        source("./no/such/folder")


def test_bare_word():
    with pytest.raises(LoadingError, match=r"neither a folder nor a Hub id.*sandbox:text or sandbox:vision"):
        source("qwen")


def test_unknown_sandbox_model():
    with pytest.raises(UsageError, match="Did you mean 'text'"):
        source("sandbox:txt")


def test_not_a_model_folder(tmp_path):
    with pytest.raises(LoadingError, match=r"it has no config\.json"):
        source(tmp_path)


def test_a_file(checkpoint):
    with pytest.raises(LoadingError, match="is a file"):
        source(checkpoint / "config.json")


def test_pickle_only(copy):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(LoadingError, match="pickle weights only"):
        source(copy)


def test_no_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(LoadingError, match="holds no weights"):
        source(copy)


def test_damaged_weights(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(LoadingError, match="weights cannot be"):
        source(copy).load()


def test_weights_of_another_config(copy):
    edit_config(copy, num_hidden_layers=3, layer_types=["full_attention"] * 3)
    with pytest.raises(LoadingError, match="would be random"):
        source(copy).load()


def test_damaged_config(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(LoadingError, match="config"):
        source(copy)


def test_unknown_architecture(copy):
    edit_config(copy, model_type="nonesuch", architectures=["Nonesuch"])
    with pytest.raises(LoadingError, match="its config cannot be loaded"):
        source(copy)


def test_not_a_language_model(copy):
    edit_config(copy, model_type="vit", architectures=["ViTModel"])
    with pytest.raises(LoadingError, match="cannot be loaded"):
        source(copy).load()


def test_remote_code_is_off(copy):
    edit_config(
        copy,
        model_type="strange",
        auto_map={"AutoConfig": "code.Strange", "AutoModelForCausalLM": "code.StrangeModel"},
    )
    (copy / "code.py").write_text("raise SystemExit('this must not run')")
    with pytest.raises(LoadingError, match="--trust-remote-code"):
        source(copy)


def test_offline(monkeypatch):
    with pytest.raises(LoadingError, match="not in the local Hugging Face cache"):
        source("some-owner/some-model")


@pytest.mark.parametrize(
    "kind, message",
    [
        (errors.GatedRepoError, "is gated: accept its terms"),
        (errors.RepositoryNotFoundError, "was not found on the Hub"),
        (errors.RevisionNotFoundError, "has no revision 'v9'"),
    ],
)
def test_hub_errors(monkeypatch, kind, message):
    def refuse(*args, **kwargs):
        raise OSError("something went wrong") from kind.__new__(kind, "refused")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(LoadingError, match=message):
        source("owner/model", revision="v9")
