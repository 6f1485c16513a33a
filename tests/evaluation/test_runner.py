"""Runs: complete, repeatable, resumable, and the model comes back whatever happens."""

from __future__ import annotations

import json

import pytest
import torch

import attnpatch
from attnpatch.evaluation import evaluate, runner
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.scoring import Outcome

from .conftest import byte_tokenizer


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(40)[None], use_cache=False).logits


def comparable(results):
    """What must not change from run to run: everything but clocks."""
    volatile = ("speed", "seconds", "date", "peak_memory", "command")
    return [{key: value for key, value in cell.items() if key not in volatile} for cell in results.cells]


def test_every_cell_carries_its_story(small_run):
    results = small_run()
    assert results.count("ok") == len(results.cells) == 2 * (1 + 1 + 2)
    assert [cell["method"]["name"] for cell in results.cells[:2]] == ["stock", "stock"]
    for cell in results.cells:
        assert cell["model"]["fingerprint"]
        assert cell["versions"]["torch"] == torch.__version__
        assert cell["command"]
        assert cell["report"]["calls"] == 2 * 2  # layers x batches
        assert cell["report"]["backends"]
        assert cell["speed"]["prefill"]["tokens_per_s"] > 0
        target = cell["budget"]["target"]
        assert cell["budget"]["mean_keys"] == pytest.approx(48.5 if target is None else target, abs=0.6)
        assert cell["peak_memory"] is None or torch.cuda.is_available()
    seeds = [cell["method"]["config"]["seed"] for cell in results.cells if cell["method"]["name"] == "stochastic"]
    assert len(set(seeds)) == 4
    assert results.run["unpatched"] is True
    assert results.run["peak_rss_bytes"] is None or results.run["peak_rss_bytes"] > 2**20
    assert results.exit_code(strict=True) == 0


def test_same_request_same_results(small_run):
    assert comparable(small_run()) == comparable(small_run())


def test_order_of_tasks_and_methods_does_not_matter(small_run):
    first = small_run(tasks=["needle", "copy"], methods=["sliding", "stochastic"])
    second = small_run(tasks=["copy", "needle"], methods=["stochastic", "sliding"])
    assert {c["key"]: c["scores"] for c in first.cells} == {c["key"]: c["scores"] for c in second.cells}


def test_stock_equals_the_unpatched_model(small_run, sandbox_model, sandbox_tokenizer):
    from attnpatch.evaluation import tasks
    from attnpatch.evaluation.scoring import score_prefill

    cell = small_run(tasks=["perplexity"]).cells[0]
    documents = tasks.available(sandbox_tokenizer)["perplexity"].documents(96, 3, 0)
    plain = score_prefill(sandbox_model, documents, 2, lambda n: None)
    assert cell["scores"]["perplexity"]["sums"] == [one["nll"] for one in plain.records]


def test_resume_runs_only_what_is_missing(small_run, tmp_path, monkeypatch):
    first = small_run(output_path=tmp_path, methods=["sliding"])
    ran = []
    run_cell = runner.run_cell

    def spy(model, cell, *rest):
        ran.append(cell.method.name)
        return run_cell(model, cell, *rest)

    monkeypatch.setattr(runner, "run_cell", spy)
    second = small_run(output_path=tmp_path)
    assert set(ran) == {"stochastic"}
    assert comparable(second)[: len(first.cells)] == comparable(first)
    assert [c["date"] for c in second.cells[:4]] == [c["date"] for c in first.cells]
    ran.clear()
    third = small_run(output_path=tmp_path)
    assert not ran
    assert third.run["unpatched"] is None
    small_run(output_path=tmp_path, methods=["sliding"], resume=False)
    assert len(ran) == 4


def test_a_failing_cell_does_not_end_the_run(small_run, tmp_path, monkeypatch, sandbox_model):
    before = logits(sandbox_model)
    attend = attnpatch.methods()["sliding"].attend

    def explode(self, call, inner):
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(attnpatch.methods()["sliding"], "attend", explode)
    # The budget probe would meet the error at once; fix the window so that only the run does.
    results = small_run(output_path=tmp_path, methods=["sliding:window=8", "stochastic"])
    failed = [cell for cell in results.cells if cell["status"] == "error"]
    assert {cell["method"]["name"] for cell in failed} == {"sliding"}
    assert failed[0]["reason"] == "RuntimeError: no luck"
    assert "explode" in failed[0]["traceback"]
    assert results.count("ok") == len(results.cells) - 2
    assert (results.exit_code(), results.exit_code(strict=True)) == (0, 1)
    assert torch.equal(logits(sandbox_model), before)
    assert not attnpatch.patches(sandbox_model)
    monkeypatch.setattr(attnpatch.methods()["sliding"], "attend", attend)
    again = small_run(output_path=tmp_path, methods=["sliding:window=8", "stochastic"])
    assert again.exit_code(strict=True) == 0
    assert again.run["reused_cells"] == len(results.cells) - 2


def test_out_of_memory_names_the_fix(small_run, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(runner.SCORERS, "prefill", full)
    results = small_run()
    assert results.count("error") == len(results.cells)
    assert "--batch-size" in results.cells[0]["fix"]
    assert results.exit_code() == 1


def test_interrupt_keeps_finished_cells_and_unpatches(small_run, tmp_path, monkeypatch, sandbox_model):
    before, score, calls = logits(sandbox_model), runner.SCORERS["prefill"], []

    def interrupted(model, *rest):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return score(model, *rest)

    monkeypatch.setitem(runner.SCORERS, "prefill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small_run(output_path=tmp_path)
    assert len(list((tmp_path / "cells").glob("*.json"))) == 3
    assert not attnpatch.patches(sandbox_model)
    assert torch.equal(logits(sandbox_model), before)


def test_training_mode_comes_back(sandbox_model, small_run):
    sandbox_model.train()
    try:
        small_run(methods=["stock"], tasks=["needle"])
        assert sandbox_model.training
    finally:
        sandbox_model.eval()


def test_a_patch_that_did_nothing_is_an_error(small_run, monkeypatch):
    def idle(model, documents, batch_size, advance):
        return Outcome()

    monkeypatch.setitem(runner.SCORERS, "prefill", idle)
    cell = small_run().cells[0]
    assert cell["status"] == "error"
    assert "never called" in cell["reason"]


def test_unpatch_failure_is_found(small_run, tmp_path, monkeypatch, sandbox_model):
    weight = sandbox_model.model.norm.weight
    score = runner.SCORERS["prefill"]

    def leaves_traces(model, *rest):
        with torch.no_grad():
            weight.mul_(1.0001)
        return score(model, *rest)

    original = weight.detach().clone()
    monkeypatch.setitem(runner.SCORERS, "prefill", leaves_traces)
    try:
        results = small_run(output_path=tmp_path)
    finally:
        with torch.no_grad():
            weight.copy_(original)
    assert results.unpatch_failed
    assert results.exit_code() == 1
    assert all("unpatch_failed" in cell["reason"] for cell in results.cells)
    stored = [json.loads(path.read_text())["status"] for path in (tmp_path / "cells").glob("*.json")]
    assert set(stored) == {"error"}


def test_what_does_not_fit_is_skipped(byte_model):
    results = evaluate(
        byte_model,
        byte_tokenizer(),
        methods=["sliding"],
        tasks=["needle", "chain", "needles16"],
        lengths=[256, 1024],
        budgets=[32, 400],
        limit=1,
    )
    reasons = {cell["reason"] for cell in results.cells if cell["status"] == "skipped"}
    assert any("more than the model's 512 positions" in reason for reason in reasons)
    assert any("'chain' has no version" in reason for reason in reasons)
    assert any("use at least" in reason for reason in reasons)
    assert any("is full attention at 256" in reason for reason in reasons)
    assert all(cell["fix"] for cell in results.cells if cell["status"] == "skipped")
    assert {cell["task"]["name"] for cell in results.cells if cell["status"] == "ok"} == {"needle"}
    assert results.exit_code() == 0


def test_text_tasks_on_bytes(byte_model):
    results = evaluate(
        byte_model, byte_tokenizer(), methods=["stochastic"], budgets=[32], limit=2, lengths=[400],
        tasks=["needle", "mqar", "copy", "passkey", "perplexity", "needle_decode"],
    )  # fmt: skip
    assert results.problems() == []
    decode = [cell for cell in results.cells if cell["task"]["mode"] == "decode"]
    assert all(cell["speed"]["decode"]["tokens_per_s"] > 0 for cell in decode)
    assert decode[1]["budget"]["decode_mean_keys"] == pytest.approx(399, abs=1)  # dense over the whole context


def test_a_model_that_cannot_run_leaves_errors_not_a_crash(sandbox_model, small_run, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("broken model")

    monkeypatch.setattr(sandbox_model.model, "forward", broken)
    results = small_run()
    assert {cell["reason"] for cell in results.cells} == {"RuntimeError: broken model"}
    assert not results.unpatch_failed
    assert results.exit_code() == 1


def test_samples_can_be_read_again(small_run, tmp_path):
    results = small_run(output_path=tmp_path)
    for cell in results.cells:
        lines = (tmp_path / "samples" / f"{cell['key']}.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines]
        assert [sample["id"] for sample in samples] == cell["documents"]
        assert len({sample["prompt"] for sample in samples}) == 3
        if cell["task"]["name"] == "needle":
            assert [sample["correct"] for sample in samples] == cell["scores"]["accuracy"]["sums"]
            assert all(len(sample["predicted"]) == len(sample["references"]) == 1 for sample in samples)


def test_progress_in_a_script(small_run, capsys):
    small_run(progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "sliding @12: 2 cells" in shown.err


def test_a_patched_model_is_refused(sandbox_model, small_run):
    with attnpatch.apply(sandbox_model, "stock"), pytest.raises(UsageError, match="carries patches"):
        small_run()


@pytest.mark.parametrize(
    "given, message",
    [
        ({"methods": ["slidng"]}, "Did you mean 'sliding'"),
        ({"tasks": ["nedle"]}, "Did you mean 'needle'"),
        ({"lengths": ["long"]}, "not a number of tokens"),
        ({"seeds": [0, 0]}, "seeds must be different"),
        ({"limit": 0}, "limit"),
        ({"budgets": ["lots"]}, "budget 'lots'"),
        ({"methods": [{"name": "stochastic", "options": {"local": "budget/2"}}], "budgets": []}, "needs a budget"),
    ],
)
def test_bad_requests(small_run, given, message):
    with pytest.raises(UsageError, match=message):
        small_run(**given)
