"""A runner for the commands, and a small sandbox so that these tests do not depend on the packaged weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from attnpatch import sandbox
from attnpatch.cli.main import app
from attnpatch.sandbox.text.model import build_model
from attnpatch.sandbox.text.vocabulary import build_tokenizer

CARD = "---\nlicense: apache-2.0\n---\n\n# The card\n\nMeasured: everything.\n"


@pytest.fixture
def attnpatch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `attnpatch` with these words and returns exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session")
def tiny_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the packaged text model, two layers deep and untrained."""
    folder = tmp_path_factory.mktemp("sandbox") / "text"
    build_model(layers=2, hidden=64).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (folder / "card.json").write_text('[{"task": "needle", "accuracy": 1.0}]\n')
    return folder


@pytest.fixture
def small_sandbox(monkeypatch: pytest.MonkeyPatch, tiny_sandbox: Path) -> Path:
    """`sandbox:text` is the tiny model; unknown names fail as ever."""
    real = sandbox.path
    monkeypatch.setattr(sandbox, "path", lambda name: tiny_sandbox if name == "text" else real(name))
    return tiny_sandbox


def refused(result: Result, *words: str) -> str:
    """Checks that a command ended as user errors do, with all `words` in its one line; returns that line."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    return line
