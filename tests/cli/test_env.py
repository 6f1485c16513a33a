"""`attnpatch env` and `attnpatch --version`."""

from __future__ import annotations

import json

import torch
import transformers

import attnpatch as library


def test_env(attnpatch, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    text = attnpatch("env").stdout
    assert f"torch: {torch.__version__}" in text
    assert f"transformers: {transformers.__version__}" in text
    facts = json.loads(attnpatch("env", "--json").stdout)
    assert facts["attnpatch"] == library.__version__
    assert facts["machine"]["threads"] == torch.get_num_threads()
    assert facts["environment"]["OMP_NUM_THREADS"] == "1"
    assert set(facts["methods"]) == set(library.methods())
    assert len(facts["gpus"]) == torch.cuda.device_count()


def test_env_tells_what_is_absent(attnpatch, monkeypatch):
    monkeypatch.setattr("attnpatch.cli.env.OPTIONAL", ("no_such_package",))
    assert "no_such_package: absent" in attnpatch("env").stdout


def test_version(attnpatch):
    assert attnpatch("--version").stdout == f"attnpatch {library.__version__}\n"
