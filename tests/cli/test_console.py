"""What the commands share."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from attnpatch.cli.console import TRACEBACK, progress_bar, user_errors


def failing(error: BaseException) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @user_errors
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize("error", [ValueError("no\ngood"), TypeError("no good"), OSError("no good")])
def test_user_errors_are_one_line(error):
    result = CliRunner().invoke(failing(error))
    assert (result.exit_code, result.stderr) == (2, "error: no good\n")


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(failing(ZeroDivisionError()), catch_exceptions=False)


def test_the_traceback_is_there_for_bug_reports(monkeypatch):
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(ValueError, match="no good"):
        CliRunner().invoke(failing(ValueError("no good")), catch_exceptions=False)


def test_progress_is_silent_without_a_terminal(capsys):
    with progress_bar() as move:
        move(1, 2, "half")
    assert capsys.readouterr() == ("", "")
