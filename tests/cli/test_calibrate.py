"""`attnpatch calibrate`: a profile on disk, what is printed, and errors before a model is loaded."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.evaluation.vision.conftest import make_processor
from tests.methods.vision import planted

from .conftest import refused


@pytest.fixture
def model(monkeypatch):
    """Whatever is named, a small LLaVA with planted sinks is loaded."""
    small, asked = planted.build(), []

    def load(name, dtype, device_map, *, trust_remote_code):
        asked.append(name)
        return small, make_processor()

    monkeypatch.setattr("attnpatch.vision.loading.load_vision_model", load)
    with planted.planted(small.model.language_model.layers, [0, 3]):
        yield asked


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        Image.new("RGB", (40, 30), (80 * number, 200, 10)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_a_profile_is_written_and_shown(attnpatch, model, folder, tmp_path):
    file = tmp_path / ("long_name_" * 12) / "var.json"  # wider than any terminal: the line must stay whole
    command = ("calibrate", "var", "owner/model", "--images", folder, "--limit", 2, "--question", "Is there a cat ?")
    result = attnpatch(*command, "--output", file)
    assert result.exit_code == 0, result.output
    assert f"wrote {file}" in result.stderr
    assert f'attnpatch.apply(model, "var", profile="{file}")' in result.stdout
    written = json.loads(file.read_text())
    assert (written["method"], set(written["options"]["dims"])) == ("var", set(planted.DIMS))
    assert written["command"].startswith("attnpatch calibrate var owner/model --images")
    assert model == ["owner/model"]
    shown = attnpatch(*command, "--json")
    assert json.loads(shown.stdout)["options"] == written["options"]
    assert "--output FILE keeps it" in attnpatch(*command).stdout


def test_the_sandbox_brings_its_own_scenes(attnpatch, model):
    result = attnpatch("calibrate", "var", "sandbox:vision", "--limit", 3, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["details"]["images"] == 3


def test_errors_come_before_the_model(attnpatch, model, folder):
    refused(attnpatch("calibrate", "gfit", "owner/model"), "Did you mean 'gift'")
    refused(attnpatch("calibrate", "pai", "owner/model"), "nothing to calibrate")
    refused(attnpatch("calibrate", "var", "owner/model"), "pass --images FOLDER")
    refused(attnpatch("calibrate", "var", "owner/model", "--images", folder / "none"), "does not exist")
    assert model == []
    (folder / "0.png").write_bytes(b"no")
    refused(attnpatch("calibrate", "var", "owner/model", "--images", folder), "0.png", "cannot be read")
