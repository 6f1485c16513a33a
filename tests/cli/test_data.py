"""`attnpatch data preview`."""

from __future__ import annotations

import json

from .conftest import refused

RECIPE = "lora/sandbox-sliding"


def test_preview(attnpatch, small_sandbox):
    result = attnpatch("data", "preview", RECIPE)
    assert result.exit_code == 0, result.output
    for word in ("Step 0", "Mix of this step", "Sources", "mixed", "sandbox language", "»", "«"):
        assert word in result.stdout


def test_preview_as_json(attnpatch, small_sandbox):
    words = ("data", "preview", RECIPE, "--json", "--step", "2")
    found = json.loads(attnpatch(*words).stdout)
    assert found["step"] == 2
    assert sum(row["tokens"] for row in found["samples"]) <= 2048
    assert {"pack", "task", "id", "tokens", "prompt", "trained", "omega"} == set(found["samples"][0])
    assert found["mix"][0]["samples"] == len(found["samples"])
    first = found["first"]
    assert first["id"] == found["samples"][0]["id"]
    assert first["prompt"].startswith("<bos>")
    assert "[… " in first["prompt"] + first["answer"]  # 256 tokens are too many to print
    assert json.loads(attnpatch(*words).stdout) == found
    other = json.loads(attnpatch(*words, "--set", "data.seed=1", "--set", "data.pack_tokens=256").stdout)
    assert sum(row["tokens"] for row in other["samples"]) <= 256


def test_preview_of_files(attnpatch, small_sandbox, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_text('{"q": "ask", "a": "7"}\n')
    source = f"{{task: qa, files: {tmp_path}/rows.jsonl, columns: {{question: '{{q}}', answer: '{{a}}'}}}}"
    result = attnpatch("data", "preview", RECIPE, "--set", f"data.sources=[{source}]")
    assert "plain text" in result.stdout, result.output
    assert "<bos> ask »7 <eos>«" in result.stdout


def test_mistakes(attnpatch, small_sandbox):
    refused(attnpatch("data", "preview", "lora/sandbox-slidin"), "Did you mean 'lora/sandbox-sliding'?")
    refused(attnpatch("data", "preview", RECIPE, "--set", "data.sed=1"), "Did you mean 'seed'?")
    refused(attnpatch("data", "preview", RECIPE, "--set", "data.seed"), "--set training.max_steps=2")
    refused(attnpatch("data", "preview", RECIPE, "--set", "model=sandbox:txt"), "sandbox")
