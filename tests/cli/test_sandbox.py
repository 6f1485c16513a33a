"""`attnpatch sandbox path|card|train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnpatch import sandbox

from .conftest import refused


@pytest.mark.parametrize("name", sandbox.MODELS)
def test_path(attnpatch, name):
    result = attnpatch("sandbox", "path", name)
    assert Path(result.stdout.strip()) == sandbox.path(name)
    assert result.stdout.count("\n") == 1


def test_card(attnpatch, small_sandbox):
    text = attnpatch("sandbox", "card", "text").stdout
    assert "The card" in text
    assert "license:" not in text  # the front matter is for the Hub
    assert json.loads(attnpatch("sandbox", "card", "text", "--json").stdout) == [{"task": "needle", "accuracy": 1.0}]


@pytest.mark.parametrize("name", sandbox.MODELS)
def test_card_measures_again(attnpatch, monkeypatch, tmp_path, name):
    calls = []
    monkeypatch.setattr(f"attnpatch.sandbox.{name}.card.write_card", lambda folder, rows: calls.append((folder, rows)))
    (tmp_path / "README.md").write_text("---\n---\nnew")
    assert attnpatch("sandbox", "card", name, "--rows", "3", "--output-dir", tmp_path).exit_code == 0
    assert calls == [(tmp_path, 3)]


def test_the_card_of_the_vision_model(attnpatch):
    text = attnpatch("sandbox", "card", "vision").stdout
    assert "CHAIR_i" in text
    assert "biased" in text
    cells = json.loads(attnpatch("sandbox", "card", "vision", "--json").stdout)
    assert [cell["set"] for cell in cells] == ["biased", "anti"]


def test_card_that_is_missing(attnpatch, tmp_path):
    refused(attnpatch("sandbox", "card", "text", "--output-dir", tmp_path), "README.md is missing", "--rows")


@pytest.mark.parametrize("name", sandbox.MODELS)
def test_train_one_step_then_go_on(attnpatch, tmp_path, tiny_models, name):
    words = ("sandbox", "train", name, "--output-dir", tmp_path / "new")
    first = attnpatch(*words, "--steps", "2", "--minutes", "1e-9")
    assert (first.exit_code, "run the same command to go on" in first.stdout) == (0, True), first.output
    second = attnpatch(*words, "--steps", "2")
    assert second.stdout == f"step 2, finished: {tmp_path / 'new'}\n"
    assert (tmp_path / "new" / "model.safetensors").is_file()
    refused(attnpatch(*words, "--steps", "2", "--seed", "1"), "seed")


def test_train_does_not_replace_a_trained_model(attnpatch, small_sandbox):
    before = (small_sandbox / "model.safetensors").read_bytes()
    refused(attnpatch("sandbox", "train", "text", "--steps", "1"), "--output-dir", "--overwrite")
    assert (small_sandbox / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("command", ["path", "card", "train"])
def test_unknown_model(attnpatch, command):
    refused(attnpatch("sandbox", command, "txt"), "'txt'", "Did you mean 'text'?", "text, vision")


@pytest.fixture
def tiny_models(monkeypatch):
    """Training starts from models narrow enough for a test."""
    from attnpatch.sandbox.text import model as text
    from attnpatch.sandbox.text import train as train_text
    from attnpatch.sandbox.vision import model as vision
    from attnpatch.sandbox.vision import train as train_vision

    monkeypatch.setattr(train_text, "build_model", lambda seed: text.build_model(seed, hidden=64))
    monkeypatch.setattr(train_vision, "build_model", lambda seed: vision.build_model(seed, layers=1, hidden=64))
