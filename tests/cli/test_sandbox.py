"""`attnpatch sandbox path|card|train`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnpatch import sandbox

from .conftest import refused


def test_path(attnpatch):
    result = attnpatch("sandbox", "path", "text")
    assert Path(result.stdout.strip()) == sandbox.path("text")
    assert result.stdout.count("\n") == 1


def test_card(attnpatch, small_sandbox):
    text = attnpatch("sandbox", "card", "text").stdout
    assert "The card" in text
    assert "license:" not in text  # the front matter is for the Hub
    assert json.loads(attnpatch("sandbox", "card", "text", "--json").stdout) == [{"task": "needle", "accuracy": 1.0}]


def test_card_measures_again(attnpatch, small_sandbox, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("attnpatch.sandbox.text.card.write_card", lambda folder, rows: calls.append((folder, rows)))
    (tmp_path / "README.md").write_text("---\n---\nnew")
    assert attnpatch("sandbox", "card", "text", "--rows", "3", "--output-dir", tmp_path).exit_code == 0
    assert calls == [(tmp_path, 3)]


def test_card_that_is_missing(attnpatch, tmp_path):
    refused(attnpatch("sandbox", "card", "text", "--output-dir", tmp_path), "README.md is missing", "--rows")


def test_train_one_step_then_go_on(attnpatch, tmp_path, tiny_model):
    words = ("sandbox", "train", "text", "--output-dir", tmp_path / "new")
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
    refused(attnpatch("sandbox", command, "txt"), "'txt'", "Did you mean 'text'?")


@pytest.fixture
def tiny_model(monkeypatch):
    """Training starts from a model narrow enough for a test."""
    from attnpatch.sandbox.text import model, train

    monkeypatch.setattr(train, "build_model", lambda seed: model.build_model(seed, hidden=64))
