"""Models by name: what is there is loaded, and what is not is said."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch

import attnpatch
from attnpatch import sandbox
from attnpatch.vision import load_vision_model, loading
from tests.vision.small import picture as small_picture
from tests.vision.small import processor, small_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "vision"
    small_model().save_pretrained(place)
    processor().save_pretrained(place)
    return place


def test_a_folder(folder):
    model, found = load_vision_model(folder)
    assert not model.training
    assert model.dtype == torch.float32
    assert type(found).__name__ == "LlavaProcessor"
    assert load_vision_model(folder, "bfloat16")[0].dtype == torch.bfloat16


def test_the_sandbox_model(folder, monkeypatch):
    monkeypatch.setattr(sandbox, "path", lambda name: folder)
    model, _ = load_vision_model("sandbox:vision", torch.bfloat16)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sandbox:visoin", "Did you mean 'sandbox:vision'"),
        ("sandbox:text", "no packaged vision-language model"),
        ("nothing", "no such folder. Give a folder, a Hub id"),
        ("/no/where", "no such folder"),
        (__file__, "is a file"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(attnpatch.AttnPatchError, match=message):
        load_vision_model(name)


def test_no_config(tmp_path):
    with pytest.raises(attnpatch.AttnPatchError, match="has no config"):
        load_vision_model(tmp_path)


def test_a_model_that_reads_no_pictures(tmp_path):
    from tests import zoo

    zoo.build("llama").save_pretrained(tmp_path)
    with pytest.raises(attnpatch.UnsupportedModelError, match=r"not a vision-language model.*LlamaConfig"):
        load_vision_model(tmp_path)


def test_no_processor(tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(attnpatch.AttnPatchError, match=r"processor of .*processor\.save_pretrained"):
        load_vision_model(tmp_path)
    processor().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(attnpatch.AttnPatchError, match=r"processor.*preprocessor_config.json"):
        load_vision_model(tmp_path)


def test_weights_that_are_not_all_there(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights = {name: value for name, value in weights.items() if "linear_1.weight" not in name}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(attnpatch.AttnPatchError, match=r"1 weights are not in the checkpoint.*linear_1.weight"):
        load_vision_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(attnpatch.AttnPatchError, match="weights of"):
        load_vision_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(attnpatch.AttnPatchError, match="config of"):
        load_vision_model(tmp_path)


def test_an_unknown_dtype(folder):
    with pytest.raises(attnpatch.AttnPatchError, match=r"unknown dtype 'float23'\. Did you mean 'float32'"):
        load_vision_model(folder, "float23")


def test_no_pillow(folder, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"attnpatch\[eval\]"):
        load_vision_model(folder)


def test_a_processor_of_videos_without_torchvision(tmp_path, monkeypatch):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from tests import zoo

    zoo.build("qwen2_5_vl").save_pretrained(tmp_path)
    processor().tokenizer.save_pretrained(tmp_path)
    Qwen2VLImageProcessorPil().save_pretrained(tmp_path)
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == "torchvision" else True)
    _, found = load_vision_model(tmp_path)
    assert type(found).__name__ == "Qwen2_5_VLProcessor"
    assert found.video_processor is None
    assert "image_grid_thw" in found.image_processor(images=[small_picture(56, 56)], return_tensors="pt")


def test_a_processor_that_needs_another_package(folder, monkeypatch):
    def missing(*args, **kwargs):
        raise ImportError("VideoProcessor requires the Torchvision library but it was not found")

    import transformers

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", missing)
    with pytest.raises(attnpatch.AttnPatchError, match=r"needs torchvision for the processor.*pip install"):
        load_vision_model(folder)


@pytest.mark.parametrize("file", sorted(Path(loading.__file__).parent.glob("*.py")), ids=lambda file: file.name)
def test_nothing_optional_is_imported_at_once(file):
    body = ast.parse(file.read_text()).body
    names = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in body if isinstance(node, ast.ImportFrom)}
    assert not {name.split(".")[0] for name in names} & {"PIL", "matplotlib", "scipy", "torchvision", "transformers"}
