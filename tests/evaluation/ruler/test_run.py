"""RULER as part of an evaluation: all tasks on a tiny model, from the Python API and the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from attnpatch.cli.eval import app
from attnpatch.evaluation import Results, UsageError, evaluate
from attnpatch.evaluation.ruler.specs import ALL, OFFLINE, RULER_TASKS
from tests.zoo import tiny_qwen3

from .conftest import CHAT, tokenizer_of


@pytest.fixture(scope="module")
def model():
    return tiny_qwen3(900, 4096)


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch):
    """Four tokens an answer: what is tested is how cells are run, not how long they take."""
    from dataclasses import replace

    for name, spec in RULER_TASKS.items():
        monkeypatch.setitem(RULER_TASKS, name, replace(spec, generated=4))


def test_all_13(model, files, tmp_path, monkeypatch):
    monkeypatch.setattr(Results, "plot", lambda self, folder: [])  # seconds for 13 tasks; drawn in another test
    tokenizer = tokenizer_of("bpe")
    results = evaluate(
        model, tokenizer, methods=["sliding:window=64"], tasks=["ruler"], lengths=[2300], limit=2,
        generation_batch_size=2, speed_rounds=0, output_path=tmp_path, **files,
    )  # fmt: skip
    assert results.problems() == []
    assert [cell["task"]["name"] for cell in results.cells] == [*ALL, *ALL]
    for cell in results.cells:
        assert cell["task"]["mode"] == "generate"
        assert cell["batch_size"] == 2
        assert cell["budget"]["decode_mean_keys"] is not None
        assert cell["speed"]["decode"]["tokens"] == 6
        metric = f"string_match_{RULER_TASKS[cell['task']['name']].match}"
        assert set(cell["metrics"]) == {metric}
        samples = [json.loads(line) for line in (tmp_path / "samples" / f"{cell['key']}.jsonl").open()]
        for sample in samples:
            assert {"id", "prompt", "prediction", "references", "hits", "score"} <= set(sample)
            assert 2000 < sample["prompt_tokens"] <= 2296
        found = 100 * sum(sum(s["hits"]) / len(s["hits"]) for s in samples) / 2
        assert cell["metrics"][metric]["value"] == pytest.approx(found)
    summary = (tmp_path / "summary.md").read_text()
    assert "RULER, 2300 tokens" in summary
    assert "Against NVIDIA/RULER" in summary
    assert "Not comparable with lm-eval" in summary
    assert json.loads((tmp_path / "results.json").read_text())["ruler"]["means"][0]["is_ruler"]


def test_only_what_needs_nothing_runs_without_data(model):
    results = evaluate(model, tokenizer_of("bpe"), tasks=["ruler"], lengths=[1500], limit=1)
    by_status = {cell["task"]["name"]: cell["status"] for cell in results.cells}
    assert {name for name, status in by_status.items() if status == "ok"} == set(OFFLINE)
    assert sorted({cell["fix"].split()[1] for cell in results.cells if cell["status"] == "skipped"}) == [
        "--haystack", "--hotpot", "--squad",
    ]  # fmt: skip
    assert "(6/13)" in results.to_markdown()


def test_too_long_and_too_short_are_skips(model, files):
    results = evaluate(model, tokenizer_of("bpe"), tasks=["ruler_vt"], lengths=[300, 8192], limit=1, **files)
    short, long = results.cells
    assert "smallest workable length is" in short["reason"]
    assert "8192 tokens are more than the model's 4096 positions" in long["reason"]
    assert {cell["status"] for cell in results.cells} == {"skipped"}


def test_chat_template_changes_the_prompt_and_the_key(model, files):
    tokenizer = tokenizer_of("bpe")
    given = {"tasks": ["ruler_niah_single_1"], "lengths": [1200], "limit": 1, **files}
    plain = evaluate(model, tokenizer, **given).cells[0]
    tokenizer.chat_template = CHAT
    try:
        chat = evaluate(model, tokenizer, chat_template=True, **given).cells[0]
    finally:
        tokenizer.chat_template = None
    assert chat["status"] == "ok"
    assert chat["key"] != plain["key"]
    without = evaluate(model, tokenizer, chat_template=True, **given).cells[0]
    assert without["status"] == "skipped"
    assert "no chat template" in without["reason"]


def test_depths_reach_the_cells(model, files):
    results = evaluate(
        model, tokenizer_of("bpe"), tasks=["ruler_niah_single_1", "passkey_grid", "needle"], lengths=[1200], limit=4,
        depths=[0, 40], **files,
    )  # fmt: skip
    for cell in results.cells:
        assert cell["depth"]["at"] == [0, 0.4]
        assert min(cell["depth"]["total"]) >= 2
    with pytest.raises(UsageError, match="depths"):
        evaluate(model, tokenizer_of("bpe"), depths=[120])


def test_a_file_that_is_not_there_is_wrong_use(model):
    with pytest.raises(UsageError, match=r"--squad '\./nothing\.json' does not exist"):
        evaluate(model, tokenizer_of("bpe"), tasks=["ruler_qa_squad"], squad="./nothing.json")


def test_command_line(model, files, tmp_path):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer_of("bpe").save_pretrained(folder)
    arguments = [
        "run", "--model", folder, "--methods", "sliding:window=64", "--tasks", "ruler_niah_single_2", "passkey_grid",
        "--lengths", "1200", "--limit", "3", "--depths", "0", "50", "100", "--haystack", files["haystack"],
        "--word-list", files["word_list"], "--generation-batch-size", "3", "--speed-rounds", "0",
        "--output-path", tmp_path / "out",
    ]  # fmt: skip
    done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    assert "found / in reach of the mask, by depth" in done.stdout
    assert "0.00 (1/13)" in done.stdout
    drawn = {path.name for path in (tmp_path / "out" / "plots").iterdir()}
    assert {"grid_ruler_niah_single_2.png", "grid_passkey_grid.png"} <= drawn
    listed = CliRunner().invoke(app, ["list", "tasks"]).stdout
    assert "ruler_offline" in listed
    assert "ruler_niah_multikey_3" in listed
    wrong = CliRunner().invoke(app, ["run", "--tasks", "ruler_offlin", "--dry-run"])
    assert wrong.exit_code == 2
    assert "Did you mean 'ruler_offline'" in wrong.stderr


def test_the_sandbox_does_not_speak_english(sandbox_model, sandbox_tokenizer):
    results = evaluate(sandbox_model, sandbox_tokenizer, tasks=["ruler_offline"], lengths=[256], limit=1)
    assert {cell["status"] for cell in results.cells} == {"skipped"}
    assert len(results.cells) == 6
