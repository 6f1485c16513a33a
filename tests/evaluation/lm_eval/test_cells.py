"""lm-eval's tasks as cells of an evaluation: the same documents for all, its own numbers, nothing shared but that."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from attnpatch.evaluation import UsageError, evaluate
from attnpatch.evaluation.lm_eval import loading
from attnpatch.evaluation.results import Results
from tests.evaluation.lm_eval.conftest import TASK_FILES, THREE


@pytest.fixture
def run(model, tokenizer):
    def run(tasks=THREE, methods=("sliding:window=2,sink=0",), limit=4, lm_eval=None, **given):
        settings = {"include_path": [str(TASK_FILES)], **(lm_eval or {})}
        given = {"lengths": [64], "batch_size": 2, "speed_rounds": 0, **given}
        return evaluate(model, tokenizer, tasks=tasks, methods=list(methods), limit=limit, lm_eval=settings, **given)

    return run


def cell_of(results, task, method="stock"):
    (found,) = [c for c in results.cells if (c["task"]["name"], c["method"]["name"]) == (task, method)]
    assert found["status"] == "ok", found.get("traceback") or found["reason"]
    return found


def values(results, task, method="stock"):
    return {name: metric["value"] for name, metric in cell_of(results, task, method)["metrics"].items()}


@pytest.fixture(scope="module")
def three(model, tokenizer):
    """The three tasks, and one with a metric of the corpus only, under three methods."""
    methods = ["sliding:window=2,sink=0", "stochastic:window=2"]
    return evaluate(
        model, tokenizer, tasks=[*THREE, "toy_corpus"], methods=methods, lengths=[64], limit=4, batch_size=2,
        speed_rounds=0, lm_eval={"include_path": [str(TASK_FILES)]},
    )  # fmt: skip


def test_stock_cells_have_the_numbers_of_lm_evals_own_model(three, answers, model, tokenizer):
    scores, _ = answers(HFLM(model, tokenizer=tokenizer, batch_size=2))
    for task in THREE:
        theirs = {
            key.removesuffix(",none"): float(value)
            for (name, key), value in scores.items()
            if name == task and key.endswith(",none") and "stderr" not in key
        }
        assert values(three, task) == pytest.approx(theirs, rel=1e-12)


def test_all_methods_answer_the_same_documents_and_answer_differently(three):
    for task in THREE:
        cells = [cell_of(three, task, method) for method in ("stock", "sliding", "stochastic")]
        assert len({cell["task"]["documents"] for cell in cells}) == 1
        assert len({cell["key"] for cell in cells}) == 3
        assert [cell["documents"] for cell in cells] == [["0", "1", "2", "3"]] * 3
    perplexities = [
        values(three, "toy_roll", method)["byte_perplexity"] for method in ("stock", "sliding", "stochastic")
    ]
    assert len(set(perplexities)) == 3
    assert three.run["unpatched"] is True


def test_rows_have_paired_differences_and_what_has_no_score_per_document_has_none(three):
    rows = {(row.method, row.task, row.metric): row for row in three.rows}
    perplexity = rows["sliding(sink=0, window=2)", "toy_roll", "word_perplexity"]
    assert perplexity.delta_low <= perplexity.delta <= perplexity.delta_high
    mcc = rows["sliding(sink=0, window=2)", "toy_corpus", "mcc"]
    assert (mcc.low, mcc.delta_low) == (None, None)
    assert mcc.delta == pytest.approx(mcc.value - rows["stock", "toy_corpus", "mcc"].value)
    assert rows["stock", "toy_mc", "acc"].length is None


def test_tables_csv_and_json_hold_them(three, tmp_path, monkeypatch):
    monkeypatch.setattr(Results, "plot", lambda self, folder: [])  # slow; drawn once, further down
    three.save(tmp_path)
    again = Results.load(tmp_path)
    assert [row.to_dict() for row in again.rows] == [row.to_dict() for row in three.rows]
    text = (tmp_path / "summary.md").read_text()
    assert "toy_mc acc_norm" in text
    assert "toy_roll, word perplexity, documents of their own length" in text
    assert "lm-eval" in text


def test_plots_take_what_has_a_length_and_what_has_none(run, tmp_path):
    results = run(["needle", "toy_corpus"], limit=2, lengths=[128])
    assert [path.name for path in results.plot(tmp_path)][:1] == ["accuracy_vs_budget.png"]


def test_cells_say_how_they_were_scored(three):
    stochastic = cell_of(three, "toy_mc", "stochastic")
    assert (stochastic["lm_eval"]["loglikelihood"], stochastic["batch_size"]) == ("whole", 1)
    stock = cell_of(three, "toy_mc")
    assert (stock["lm_eval"]["loglikelihood"], stock["batch_size"]) == ("whole", 2)
    assert stock["lm_eval"]["prompt_tokens"]["longest"] > 10
    assert stock["report"]["calls"] > 0
    assert stock["budget"]["mean_keys"] > cell_of(three, "toy_mc", "sliding")["budget"]["mean_keys"]
    assert stock["speed"]["prefill"]["tokens_per_s"] > 0


def test_context_scoring_has_other_keys_and_other_numbers(run, three):
    methods, tasks = ["stochastic:window=2,seed=1"], ["toy_mc", "toy_roll"]
    context = run(tasks, methods, lm_eval={"loglikelihood": "context"})
    whole = run(tasks, methods)
    for task in tasks:
        assert cell_of(context, task, "stochastic")["key"] != cell_of(whole, task, "stochastic")["key"]
        assert cell_of(context, task, "stochastic")["lm_eval"]["loglikelihood"] == "context"
    # A rolling window's context is one token: everything behind it is decoded, densely here.
    dense = values(context, "toy_roll", "stochastic")
    assert dense == pytest.approx(values(three, "toy_roll"), rel=1e-4)
    assert dense != pytest.approx(values(whole, "toy_roll", "stochastic"), rel=1e-2)


def test_a_second_run_reads_the_cells_and_another_method_never_does(run, tmp_path):
    first = run(["toy_roll"], output_path=tmp_path)
    again = run(["toy_roll"], output_path=tmp_path)
    assert again.run["reused_cells"] == 2
    assert again.cells == first.cells
    other = run(["toy_roll"], ["sliding:window=3,sink=0"], output_path=tmp_path)
    assert other.run["reused_cells"] == 1
    assert values(other, "toy_roll", "sliding") != values(first, "toy_roll", "sliding")
    samples = (tmp_path / "samples" / f"{first.cells[0]['key']}.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in samples] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    "changed",
    [
        {"limit": 3},
        {"data_seed": 1, "lm_eval": {"num_fewshot": 2}},
        {"lm_eval": {"num_fewshot": 1}},
        {"lm_eval": {"system_instruction": "Be brief."}},
        {"chat_template": True},
        {"batch_size": 3},
    ],
)
def test_whatever_is_asked_differently_is_another_cell(run, changed):
    base = run(["toy_mc"], ["stock"], lm_eval={"num_fewshot": 2} if "data_seed" in changed else None)
    other = run(["toy_mc"], ["stock"], **changed)
    assert cell_of(base, "toy_mc")["key"] != cell_of(other, "toy_mc")["key"]


def test_gen_kwargs_reach_the_task(run):
    assert cell_of(run(["toy_gen"], ["stock"]), "toy_gen")["speed"]["decode"]["tokens"] > 0
    short = cell_of(run(["toy_gen"], ["stock"], lm_eval={"gen_kwargs": "max_gen_toks=1"}), "toy_gen")
    assert short["speed"]["decode"] is None


def test_documents_depend_on_the_data_seed_only_and_global_states_survive(run):
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = (
        random.Random(5).random(),
        np.random.RandomState(5).rand(),
        torch.rand(1, generator=torch.Generator().manual_seed(5)),
    )
    alone = run(["toy_random"], ["stock"])
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    behind = run(["toy_gen", "toy_random"], ["stochastic:window=4"], seeds=[3])
    other = run(["toy_random"], ["stock"], data_seed=1)
    hashes = [cell_of(results, "toy_random")["task"]["documents"] for results in (alone, behind, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_group_gets_a_row_by_its_own_rule(run):
    results = run(["toy_group"], limit=8)
    parts = [values(results, task)["acc"] for task in ("toy_mc", "toy_mc2")]
    sizes = [len(cell_of(results, task)["documents"]) for task in ("toy_mc", "toy_mc2")]
    assert sizes == [8, 5]
    (row,) = [row for row in results.rows if (row.task, row.method, row.metric) == ("toy_group", "stock", "acc")]
    assert row.value == pytest.approx(sum(parts) / 2)  # weight_by_size: false
    assert row.documents == 13
    assert "toy_group" in results.to_markdown()
    delta = [row.delta for row in results.rows if row.task == "toy_group" and row.method != "stock"]
    assert len(delta) == 1


def test_no_data_is_skipped_with_the_reason_and_the_fix_and_the_rest_runs(run):
    results = run(["toy_nodata", "toy_mc"])
    skipped = [cell for cell in results.cells if cell["task"]["name"] == "toy_nodata"]
    assert {cell["status"] for cell in skipped} == {"skipped"}
    assert skipped[0]["reason"].startswith("no data: lm-eval task 'toy_nodata' cannot be loaded")
    assert "hf download --repo-type dataset nobody/no-such-dataset" in skipped[0]["fix"]
    assert cell_of(results, "toy_mc")


def test_a_group_without_all_its_data_has_no_row(run, tmp_path):
    (tmp_path / "part.yaml").write_text(
        "group: part\ntask: [toy_mc, toy_nodata]\naggregate_metric_list: [{metric: acc}]\n"
    )
    results = run(["part"], ["stock"], lm_eval={"include_path": [str(TASK_FILES), str(tmp_path)]})
    assert {row.task for row in results.rows} == {"toy_mc"}


def test_what_does_not_fit_fails_its_cell(run):
    results = run(["toy_gen"], ["stock"], lm_eval={"gen_kwargs": {"max_gen_toks": 500}})
    (cell,) = results.cells
    assert cell["status"] == "error"
    assert "more than max_length=512" in cell["reason"]


def test_a_chat_template_that_is_not_there(run, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    (cell,) = run(["toy_mc"], ["stock"], chat_template=True).cells
    assert (cell["status"], cell["reason"]) == ("skipped", "the tokenizer has no chat template")


def test_ours_beside_theirs(run, monkeypatch):
    results = run(["passkey", "toy_mc"], limit=2, lengths=[256])
    assert {(row.task, row.length) for row in results.rows} == {("passkey", 256), ("toy_mc", None)}
    assert "256 tokens" in results.to_markdown()


def test_lengths_are_for_tasks_that_make_documents_of_one(run, model, tokenizer, tmp_path):
    made = tmp_path / "docs.py"
    made.write_text(
        "import datasets\n"
        "def build(max_seq_lengths=(4096,), tokenizer=None, **_):\n"
        "    assert tokenizer\n"
        "    rows = [{'q': 'x' * (n - 9), 'n': n} for n in max_seq_lengths for _ in range(4)]\n"
        "    return {'test': datasets.Dataset.from_list(rows)}\n"
        "def results(doc, found):\n"
        "    return {'4096': -1.0, str(doc['n']): float(len(found[0]) % 2)}\n"
    )
    (tmp_path / "sized.yaml").write_text(
        "task: sized\ncustom_dataset: !function docs.build\noutput_type: generate_until\ntest_split: test\n"
        "doc_to_text: '{{q}}'\ndoc_to_target: '{{n}}'\nprocess_results: !function docs.results\n"
        "generation_kwargs: {do_sample: false, max_gen_toks: 4, until: []}\n"
        "metric_list: [{metric: '4096', aggregation: mean, higher_is_better: true}]\nmetadata: {version: 1.0}\n"
    )
    settings = {"include_path": [str(tmp_path)]}
    results = run(["sized"], ["stock"], limit=3, lengths=[64, 128, 1024], lm_eval=settings)
    by_length = {cell["length"]: cell for cell in results.cells}
    assert {length: cell["status"] for length, cell in by_length.items()} == {64: "ok", 128: "ok", 1024: "skipped"}
    assert list(by_length[64]["metrics"]) == ["score"]
    assert by_length[64]["lm_eval"]["prompt_tokens"]["longest"] == 64 - 9
    assert "1024 tokens are more than the model's 512 positions" in by_length[1024]["reason"]


def test_lengths_of_babilong_and_words_of_ruler():
    index = {"babilong_qa1": type("Entry", (), {"cfg": {"metric_list": [{"metric": "acc"}]}})}
    assert loading.sized(index, "babilong_qa1")
    with pytest.raises(Exception, match="no documents of 512 tokens"):
        loading._for_length("babilong_qa1", None, 512)
    assert loading._for_length("babilong_qa1", None, 4096) == {"max_seq_lengths": "4k"}


def test_descriptions_say_where_lm_evals_ruler_is_another():
    assert "one fixed example" in loading.difference("ruler_vt")
    assert "steps of 25" in loading.difference("niah_multikey_2")
    assert loading.difference("hellaswag") == ""


def test_lm_evals_ruler_is_refused_where_it_would_not_end(tokenizer):
    source = type("Source", (), {"tokenizer": tokenizer})
    with pytest.raises(Exception, match="'ruler_vt' does not end with a tokenizer that makes 9 tokens of a word"):
        loading._for_length("ruler_vt", source, 512)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"tasks": ["lm_eval:toy_mcc"]}, "Did you mean 'toy_mc'"),
        ({"lm_eval": {"num_fewshots": 3}}, r"unknown key 'lm_eval.num_fewshots'. Did you mean 'num_fewshot'"),
        ({"lm_eval": {"loglikelihood": "all"}}, "lm_eval.loglikelihood"),
    ],
)
def test_usage_errors(run, given, message, monkeypatch):
    from attnpatch.evaluation.lm_eval import names

    build = names.manager
    monkeypatch.setattr(names, "manager", lambda include_path, defaults: build(include_path, False))
    with pytest.raises(UsageError, match=message):
        run(**{"tasks": ["toy_mc"], **given})
