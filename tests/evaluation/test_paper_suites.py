"""The paper-* suites: valid, planned without weights, and run end to end on tiny models of their architectures."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import attnpatch
from attnpatch.cli.eval import app
from attnpatch.evaluation import Results
from attnpatch.evaluation.suites import checked, load_suite, suite_names
from tests import zoo
from tests.evaluation.benchmarks import CHOICE, PASS, SCORE, write_tasks
from tests.evaluation.vision.conftest import make_processor
from tests.tokens import byte_tokenizer

PAPERS = [name for name in suite_names() if name.startswith("paper-")]
MODELS = {  # family of the zoo, by the name that a suite knows
    "Qwen3-8B": "qwen3",
    "Qwen3-4B": "qwen3",
    "Qwen3-30B-A3B": "qwen3_moe",
    "Llama-3.1-8B-Instruct": "llama",
    "llava-1.5-7b-hf": "llava",
    "llava-v1.6-vicuna-7b-hf": "llava_next",
}
SHORT = ("boolq", "hellaswag", "lambada_openai", "arc_easy", "arc_challenge")
KINDS = {
    "longbench_e": ("lcc", "repobench-p", "trec", "triviaqa", "samsum", "hotpotqa", "2wikimqa", "qasper",
                    "multifieldqa_en"),
    "longbench_summarization_e": ("gov_report", "multi_news"),
    "longbench_synthetic_e": ("passage_count", "passage_retrieval_en"),
}  # fmt: skip


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    members = {group: [f"longbench_{one}_e" for one in ones] for group, ones in KINDS.items()}
    tasks = {name: SCORE for ones in members.values() for name in ones} | {"longbench_qasper": SCORE}
    tasks |= dict.fromkeys((*SHORT, "mmlu_one", "mmlu_two", "longbench2_one"), CHOICE) | {"humaneval": PASS}
    groups = {group: (ones, "score") for group, ones in members.items()}
    groups |= {"mmlu": (["mmlu_one", "mmlu_two"], "acc"), "longbench2": (["longbench2_one"], "acc")}
    groups |= {"longbench": (["longbench_qasper"], "score")}
    return write_tasks(tmp_path_factory.mktemp("benchmarks") / "tasks", tasks, groups)


def tiny(family: str, positions: int = 2048):
    """The zoo's model with room for the byte tokenizer and longer prompts."""
    config = zoo.TEXT_CONFIGS[family]()
    config.vocab_size, config.max_position_embeddings = 300, positions
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 256, 257, 258
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """`models(name)`: a folder of that name with a tiny model of the architecture."""
    root = tmp_path_factory.mktemp("models")

    def folder(name: str):
        path = root / name
        if not path.exists():
            pictures = MODELS[name] in zoo.VLM_CONFIGS
            model = zoo.build(MODELS[name]) if pictures else tiny(MODELS[name])
            model.save_pretrained(path)
            (make_processor() if pictures else byte_tokenizer()).save_pretrained(path)
        return path

    return folder


@pytest.fixture
def run(models, benchmarks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the suites' routers lie in ./runs
    monkeypatch.setattr(Results, "plot", lambda self, folder: [])

    def call(suite: str, name: str, *more: str, tasks=()):
        words = ["run", "--suite", suite, "--model", str(models(name)), "--include-path", str(benchmarks)]
        words += ["--lengths", "1024", "--limit", "1", "--output-path", "out", "--quiet", "--speed-rounds", "0", *more]
        return CliRunner().invoke(app, [*words, *(["--tasks", *tasks] if tasks else [])])

    return call


def results() -> dict:
    return json.loads(Path("out/results.json").read_text())


def reported() -> dict[tuple[str, str, int | None], dict]:
    lines = results()["reported"]
    return {(line["name"], line["method"], line["length"]): line for line in lines}


@pytest.mark.parametrize("name", PAPERS)
def test_labels_of_reported_numbers_are_methods(name):
    """A number that stands beside none of ours is of a method that is not here, and the suite says so."""
    suite = checked(load_suite(name))
    elsewhere = ("MoBA", "DuoAttention", "PruLong", "TriMix", "OPERA", "EAH")
    labels = {spec.label for spec in suite.method_specs()}
    for entry in suite.reported:
        unknown = {label for label in entry.values if label not in labels and not label.startswith(elsewhere)}
        assert not unknown, entry.name
        assert set(entry.lengths) <= set(suite.lengths)
        assert entry.model.partition("/")[2] in MODELS
        assert entry.source
    assert len({entry.name for entry in suite.reported}) == len(suite.reported)


@pytest.mark.parametrize("name", PAPERS)
def test_dry_run(name, run):
    model = load_suite(name)["model"].partition("/")[2]
    done = run(name, model, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "cells, 0 done" in done.stdout
    if name == "paper-flux":
        assert "skip: not trained" in done.stdout


@pytest.mark.parametrize("model", ["Qwen3-8B", "Qwen3-30B-A3B"])
def test_stochastic(run, model):
    done = run("paper-stochastic", model, "--methods", "sliding:window=64")
    assert done.exit_code == 0, done.output
    lines = reported()
    mean = lines[f"{model}, mean of 7 tasks", "stock", None]
    found = {(row["task"], row["metric"]): row["value"] for row in results()["summary"] if row["method"] == "stock"}
    kinds = dict.fromkeys(("hellaswag", "arc_easy", "arc_challenge"), "acc_norm") | {
        "humaneval": "pass@1 (create_test)"
    }
    scores = [(task, kinds.get(task, "acc")) for task in (*SHORT, "mmlu", "humaneval")]
    assert mean["ours"] == pytest.approx(100 / 7 * sum(found[score] for score in scores))
    assert mean["reported"] == {"Qwen3-8B": 71.5, "Qwen3-30B-A3B": 77.4}[model]
    assert mean["difference"] == pytest.approx(mean["ours"] - mean["reported"])
    assert lines[f"{model}, mean of 7 tasks", "MoBA k=2 64", None]["ours"] is None


def test_stochastic_as_it_stands(run):
    """All methods of the suite, on one of its tasks."""
    done = run("paper-stochastic", "Qwen3-8B", tasks=["boolq"])
    assert done.exit_code == 0, done.output
    lines = reported()
    assert lines["Qwen3-8B, BoolQ", "SA 64", None]["ours"] in (0.0, 100.0)
    assert lines["Qwen3-8B, mean of 7 tasks", "SA 64", None]["measured"] == 1
    assert lines["Qwen3-8B, mean of 7 tasks", "SA 64", None]["difference"] is None
    assert ("Qwen3-8B, LAMBADA", "SA 64", None) not in lines
    assert "**Qwen3-8B, BoolQ, reported and ours**" in done.stdout
    summary = Path("out/summary.md").read_text()
    assert "| SA 64 | - | 77.10 |" in summary
    assert "Accounts of arXiv 2604.00754, tables not seen [secondary]." in summary
    rows = list(csv.DictReader(Path("out/reported.csv").read_text().splitlines()))
    assert {row["tag"] for row in rows} == {"secondary"}


@pytest.mark.parametrize(
    "model, trained", [("Qwen3-4B", "flux-qwen3-4b"), ("Llama-3.1-8B-Instruct", "flux-llama-3.1-8b")]
)
def test_flux(run, model, trained, tmp_path):
    model_ = tiny(MODELS[model])
    with attnpatch.apply(model_, "flux", router="untrained", sparse="sliding", local=2048, sink=128) as patch:
        patch.save_pretrained(tmp_path / "runs" / trained / "router")
    asked = ["longbench_e", "longbench_summarization_e", "longbench_synthetic_e", "longbench2", "ruler_niah_single_1"]
    done = run("paper-flux", model, tasks=asked)
    assert done.exit_code == 0, done.output
    lines = reported()
    for label in ("stock", "FA-SSA", "FA-SSA, sparse decode"):
        assert lines[f"{model}, LongBench-E", label, None]["measured"] == 13
        assert lines[f"{model}, LongBench-E", label, None]["ours"] is not None
        assert lines[f"{model}, LongBench v2", label, None]["ours"] is not None
    assert lines[f"{model}, LongBench-E", "FA-TA", None]["ours"] is None
    assert (f"{model}, RULER", "stock", 8192) not in lines  # 1024 tokens are no length of the paper
    problems = results()
    skipped = {cell["fix"] for cell in problems["cells"] if cell["status"] == "skipped"}
    arms = {"xattention": "xa", "triangle": "ta"}
    recipe = trained.replace("flux-", "flux/")
    assert {
        f"train it: attnpatch train {recipe} --set method.options.sparse={arm} --set "
        f"training.output_dir=runs/{trained}-{short}"
        for arm, short in arms.items()
    } <= skipped


def test_flux_ruler_by_length(run, models, tmp_path):
    """At a length that the paper reports, all 13 tasks or none: a mean of one task is not RULER."""
    long = tmp_path / "Qwen3-8B"
    tiny("qwen3", 8192).save_pretrained(long)
    byte_tokenizer(8192).save_pretrained(long)
    done = run("paper-flux", "Qwen3-8B", "--model", str(long), "--lengths", "8192", "--methods", "stock",
               tasks=["ruler_niah_single_1"])  # fmt: skip
    assert done.exit_code == 0, done.output
    line = reported()["Qwen3-8B, RULER", "stock", 8192]
    assert (line["reported"], line["ours"], line["measured"], line["tasks"]) == (89.69, None, 1, 13)
    assert "- (1/13 tasks)" in done.stdout


def test_flux_without_an_entry_for_the_model(run, models, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(models("Qwen3-8B"), other)
    done = run("paper-flux", "Qwen3-8B", "--model", str(other))
    assert done.exit_code == 2
    assert "has no per_model entry for" in done.stderr
    assert "Qwen/Qwen3-4B" in done.stderr


def test_xattention(run):
    done = run("paper-xattention", "Llama-3.1-8B-Instruct")
    assert done.exit_code == 0, done.output
    found = results()
    assert "reported" not in found  # no number of the paper is known
    ran = {(cell["method"]["label"], cell["task"]["name"]) for cell in found["cells"] if cell["status"] == "ok"}
    for label in ("stock", "XAttention 0.9", "XAttention 0.8"):
        assert {(label, "ruler_niah_single_1"), (label, "longbench_qasper")} <= ran
