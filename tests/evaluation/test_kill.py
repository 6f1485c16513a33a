"""A run that is killed in the middle of a cell goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from typer.testing import CliRunner

from attnpatch.cli.eval import app

CODE = """
import sys, time
from attnpatch.cli.eval import app
from attnpatch.evaluation import runner
score = runner.SCORERS["prefill"]
calls = []
def slow(model, documents, size, advance):
    calls.append(1)
    if len(calls) > 3:
        open(sys.argv[1], "w").close()
        time.sleep(120)
    return score(model, documents, size, advance)
runner.SCORERS["prefill"] = slow
app(sys.argv[2:])
"""


def test_kill_and_resume(checkpoint, tmp_path, monkeypatch):
    out, flag = tmp_path / "out", tmp_path / "fourth-cell-began"
    arguments = [
        "run", "--model", str(checkpoint), "--methods", "sliding", "stochastic", "--budgets", "12",
        "--tasks", "needle", "copy", "--lengths", "96", "--limit", "2", "--seeds", "0", "--output-path", str(out),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(flag), *arguments], env=environment, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 120
        while not flag.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert flag.exists(), process.communicate(timeout=10)[1].decode()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    kept = {path.name: path.read_bytes() for path in (out / "cells").glob("*.json")}
    assert len(kept) == 3

    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "3 of 6 cells are done already" in done.stderr
    after = {path.name: path.read_bytes() for path in (out / "cells").glob("*.json")}
    assert len(after) == 6
    assert {name: after[name] for name in kept} == kept
    assert (out / "results.json").is_file()
