"""Trained methods that are broken, foreign or not there: a sentence that says so, and an unchanged model."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

import attnpatch
from attnpatch import AttnPatchError, UnsupportedModelError
from tests import zoo
from tests.methods.flux_cases import close, logits, prompt
from tests.patching.test_saved import CONFIG, TENSORS, save_router
from tests.snapshots import structure


@pytest.fixture
def folder(tmp_path):
    return save_router(tmp_path / "router")


def edit(folder, **changes) -> None:
    described = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(described | changes))


def without_file(name):
    return lambda folder: (folder / name).unlink()


def truncated(folder):
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-100])


def empty_header(folder):
    (folder / TENSORS).write_bytes(struct.pack("<Q", 2**40))


def without_tensor(folder):
    tensors = load_file(folder / TENSORS)
    tensors.pop("layers.1.head.0.bias")
    save_file(tensors, folder / TENSORS)


def more_tensors(folder):
    save_file({**load_file(folder / TENSORS), "odd": torch.zeros(1)}, folder / TENSORS)


def other_shape(folder):
    save_file({**load_file(folder / TENSORS), "layers.0.head.4.bias": torch.zeros(3)}, folder / TENSORS)


def not_finite(folder):
    tensors = load_file(folder / TENSORS)
    tensors["layers.1.head.0.bias"][0] = torch.nan
    save_file(tensors, folder / TENSORS)


BROKEN = {
    "no config": (without_file(CONFIG), "holds no attnpatch_config.json"),
    "no tensors": (without_file(TENSORS), "holds no attnpatch.safetensors"),
    "truncated": (truncated, "is damaged"),
    "empty header": (empty_header, "is damaged"),
    "no json": (lambda folder: (folder / CONFIG).write_text("{"), "is damaged"),
    "no object": (lambda folder: (folder / CONFIG).write_text("[]"), "is damaged"),
    "no method": (lambda folder: (folder / CONFIG).write_text('{"format": 1}'), "is damaged: KeyError"),
    "config is no object": (lambda folder: edit(folder, config=[]), "must be objects"),
    "newer": (lambda folder: edit(folder, format=2), "newer attnpatch .format 2"),
    "other method": (lambda folder: edit(folder, method="sliding"), "nothing that is trained"),
    "unknown method": (lambda folder: edit(folder, method="flx"), "Did you mean 'flux'"),
    "option of another type": (lambda folder: edit(folder, config={"local": "many"}), "option local='many'"),
    "no details": (lambda folder: edit(folder, details={}), "routers are not described"),
    "odd details": (
        lambda folder: edit(folder, details={"router": {"reads": "query", "inputs": "x", "width": 8}, "layers": [0]}),
        "routers are not described",
    ),
    "no tensor": (without_tensor, "lacks tensors: layers.1.head.0.bias"),
    "more tensors": (more_tensors, "has unknown tensors: odd"),
    "not finite": (not_finite, "not finite in layers.1.head.0.bias"),
    "other shape": (other_shape, r"misshapen tensors: layers.0.head.4.bias \[3\] instead of \[2\]"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_broken_says_so_and_changes_nothing(folder, kind):
    damage, match = BROKEN[kind]
    damage(folder)
    model = zoo.build("llama")
    before = structure(model)
    with pytest.raises(AttnPatchError, match=match):
        attnpatch.load(model, folder)
    assert structure(model) == before


@pytest.mark.parametrize("family", ["qwen3", "llama_mha", "gemma3_text", "gpt_oss"])
def test_another_architecture_is_refused(folder, family):
    model = zoo.build(family)
    before = structure(model)
    with pytest.raises(UnsupportedModelError, match=r"another architecture than this model: .* is .*, not"):
        attnpatch.load(model, folder)
    assert structure(model) == before


def test_places_where_nothing_is(tmp_path):
    model = zoo.build("llama")
    before = structure(model)
    (tmp_path / "file").write_text("")
    cases = {
        str(tmp_path / "nowhere"): "neither a folder",
        str(tmp_path / "file"): "neither a folder",
        str(tmp_path): "holds no attnpatch_config.json",
        "": "neither a folder",
        "./nowhere": "neither a folder",
        "nobody/nothing": "cannot be fetched from the Hub",
    }
    for place, match in cases.items():
        with pytest.raises(AttnPatchError, match=match):
            attnpatch.load(model, place)
    assert structure(model) == before


def test_a_router_beside_a_router(folder):
    model = zoo.build("llama")
    for options, match in (({"router": "x"}, "name one of them"), ({"plan": "full"}, "both were")):
        with pytest.raises(AttnPatchError, match=match):
            attnpatch.load(model, folder, **options)
    edit(folder, method="sliding")
    with pytest.raises(AttnPatchError, match="not a flux router"):
        attnpatch.apply(model, "flux", router=str(folder))


def test_routers_for_some_layers_only(tmp_path):
    model = zoo.build("llama")
    with attnpatch.apply(model, "flux", router="untrained", layers=[1], local=4, sink=1) as patch:
        expected = logits(model, **prompt())
        patch.save_pretrained(tmp_path)
        method = patch.methods[0]
    with pytest.raises(AttnPatchError, match=r"no router for layers \[0\]; select others with layers="):
        attnpatch.load(model, tmp_path)
    with pytest.raises(AttnPatchError, match=r"no router for layers \[0\]"):
        attnpatch.apply(model, method)
    with attnpatch.load(model, tmp_path, layers=[1]):
        assert close(expected, logits(model, **prompt()))
