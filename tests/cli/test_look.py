"""`attnpatch look`: a picture is written, and what cannot be drawn is said before a model is loaded."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from attnpatch import vision
from attnpatch.vision import loading
from tests.cli.conftest import refused
from tests.vision.small import picture, processor, small_model


@pytest.fixture
def loaded(monkeypatch):
    """Any name is a small model."""
    names = []

    def load(name, *args, **kwargs):
        names.append(name)
        return small_model(), processor()

    monkeypatch.setattr(loading, "load_vision_model", load)
    assert vision.load_vision_model is load
    return names


@pytest.fixture
def photo(tmp_path):
    picture(60, 48).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_layers_of_a_scene_stock_and_patched(attnpatch, loaded, tmp_path):
    file = tmp_path / "scene.png"
    result = attnpatch("look", "sandbox:vision", "--method", "pai:alpha=2.0", "--scene", "3", "--output", file)
    assert result.exit_code == 0, result.output
    assert loaded == ["sandbox:vision"]
    for word in ("stock", "pai(alpha=2.0)", "attention to the image"):
        assert word in result.stdout
    assert f"wrote {file}" in result.stderr
    assert Image.open(file).format == "PNG"


def test_heads_of_one_layer_as_json(attnpatch, loaded, photo, tmp_path):
    file = tmp_path / "heads.png"
    words = ("look", "some/model", photo, "What is it ?", "--layer", "-1", "--heads", "--token", "1")
    result = attnpatch(*words, "--output", file, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["question"] == "What is it ?"
    assert facts["step"] == 1
    (run,) = facts["runs"]
    assert run["method"] == "stock"
    assert list(run["image_share"]) == ["3"]
    assert 0 < run["image_share"]["3"] <= 1
    assert Image.open(file).size[0] < 1000  # two heads


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("some/model",), ("an image is needed", "some/model")),
        (("some/model", "nothing.png"), ("'nothing.png' does not exist",)),
        (("some/model", __file__), ("cannot be read",)),
        (("sandbox:vision", "--method", "pia"), ("unknown method 'pia'", "Did you mean 'pai'")),
        (("sandbox:vision", "--method", "pai:alhpa=1"), ("unknown option 'alhpa'", "Did you mean 'alpha'")),
        (("sandbox:vision", "--heads"), ("--layer",)),
        (("sandbox:vision", "--output", "look.jpg"), ("'look.jpg' does not end in .png",)),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(attnpatch, loaded, words, expected):
    refused(attnpatch("look", *words), *expected)
    assert loaded == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--layer", "9"), ("layer 9 does not exist",)),
        (("--layer", "0:2", "--heads"), ("--heads shows one layer", "names 2")),
    ],
)
def test_layers_that_the_model_does_not_have(attnpatch, loaded, words, expected):
    refused(attnpatch("look", "sandbox:vision", *words), *expected)
