"""Plans read off a router's run, methods whose options differ by task, and keys that follow what options name."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

import attnpatch
from attnpatch.cli.eval import app
from attnpatch.data_files import data_file, data_path
from attnpatch.evaluation import Results, UsageError, evaluate, prompts
from attnpatch.evaluation.loading import MemorySource
from attnpatch.evaluation.majority import majority_plan, majority_suite, write_suite
from attnpatch.evaluation.plan import Planner
from attnpatch.evaluation.suites import checked, load_suite, make_suite
from attnpatch.methods.flux.plans import prompts_from


def routed(*sites: tuple[int, int], label="router", task="needle", router="r"):
    """A cell whose site i sent sites[i] = (full, sparse) prompts each way."""
    routes = [
        {"layer": i, "routes": {k: n for k, n in (("full", full), ("sparse", sparse)) if n}}
        for i, (full, sparse) in enumerate(sites)
    ]
    config = {"router": router, "plan": None, "prompts": None, "seed": 0, "local": 8}
    return {
        "status": "ok", "method": {"name": "flux", "label": label, "config": config}, "task": {"name": task},
        "report": {"sites": routes, "methods": [{"name": "flux", "config": config}]},
    }  # fmt: skip


SUITE = {"methods": [{"name": "stock", "label": "stock", "options": {}}], "tasks": ["needle", "copy"], "lengths": [64]}


def test_votes():
    one = [(0, {"full": 3, "sparse": 1}), (1, {"full": 1, "sparse": 3}), (2, {"full": 2, "sparse": 2})]
    assert majority_plan(one) == "fss"
    assert majority_plan([*one, (0, {"sparse": 3}), (1, {"full": 4})]) == "sfs"


def test_one_plan_for_all_and_one_per_task():
    cells = [routed((4, 0), (0, 4)), routed((0, 4), (0, 5), task="copy"), routed((0, 1), (0, 1), task="copy")]
    suite = majority_suite(Results(cells, {"suite": SUITE}))
    overall, per_task = suite["methods"][-2:]
    assert overall["options"] == {"plan": "ss", "local": 8}
    assert per_task["per_task"] == {"needle": {"plan": "fs"}, "copy": {"plan": "ss"}}
    again = majority_suite(Results(cells, {"suite": {**SUITE, "methods": suite["methods"]}}))
    assert again["methods"] == suite["methods"]  # not one pair more


def test_which_router():
    cells = [routed((1, 0)), routed((0, 1), label="other")]
    with pytest.raises(UsageError, match="several routers: router, other"):
        majority_suite(Results(cells, {"suite": SUITE}))
    with pytest.raises(UsageError, match="Did you mean 'router'"):
        majority_suite(Results(cells, {"suite": SUITE}), "ruoter")
    with pytest.raises(UsageError, match="no method with a router"):
        majority_suite(Results([routed((1, 0), router=None)], {"suite": SUITE}))
    assert majority_suite(Results(cells, {"suite": SUITE}), "other")["methods"][-1]["options"]["plan"] == "s"


def test_a_run_its_majority_and_the_run_of_that(checkpoint, router, tmp_path):
    def call(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    out = tmp_path / "out"
    first = call(
        "run", "--model", checkpoint, "--methods", f"flux:router={router}", "--tasks", "needle", "copy", "--lengths",
        96, "--limit", 3, "--speed-rounds", 0, "--quiet", "--output-path", out,
    )  # fmt: skip
    assert first.exit_code == 0, first.output
    said = call("majority", out)
    assert said.exit_code == 0, said.output
    suite = yaml.safe_load((out / "majority.yaml").read_text())
    assert f"all tasks: {suite['methods'][-2]['options']['plan']}" in said.stdout
    second = call("run", "--suite", out / "majority.yaml", "--quiet", "--output-path", out)
    assert second.exit_code == 0, second.output
    results = Results.load(out)
    assert {row.method for row in results.rows} >= {"stock", "majority", "majority, told the task"}
    assert results.run["reused_cells"] == 4
    told = [cell for cell in results.cells if cell["method"]["label"] == "majority, told the task"]
    for cell in told:
        expected = suite["methods"][-1]["per_task"][cell["task"]["name"]]["plan"]
        assert cell["method"]["config"]["plan"] == expected
        assert cell["omega"] == expected.count("s") / len(expected)
    assert call("majority", tmp_path).exit_code == 2


@pytest.fixture(scope="module")
def router(tmp_path_factory, sandbox_model):
    """An untrained router as a folder."""
    with attnpatch.apply(sandbox_model, "flux", router="untrained", local=8, sink=2) as patch:
        return patch.save_pretrained(tmp_path_factory.mktemp("router"))


def test_labels_do_not_matter_to_what_runs(sandbox_model, sandbox_tokenizer, tmp_path):
    asked = {"lengths": [96], "limit": 2, "speed_rounds": 0, "output_path": tmp_path}
    one, two = ({"name": "sliding", "label": label, "options": {"window": 8}} for label in ("one", "two"))
    results = evaluate(sandbox_model, sandbox_tokenizer, methods=[one, two], **asked)
    assert [cell["method"]["label"] for cell in results.cells] == ["stock", "one", "two"]
    assert results.cells[1]["scores"] == results.cells[2]["scores"]
    assert len(list((tmp_path / "cells").iterdir())) == 2
    again = evaluate(sandbox_model, sandbox_tokenizer, methods=[{**one, "label": "new"}], **asked)
    assert [cell["method"]["label"] for cell in again.cells] == ["stock", "new"]
    assert again.run["reused_cells"] == 2


def configs(model, tokenizer, method, **given):
    suite = make_suite(methods=["stock", method], tasks=["needle", "copy"], lengths=[96], limit=1, **given)
    return [cell for cell in Planner(suite, MemorySource(model, tokenizer)).cells() if cell.method.name != "stock"]


def test_options_per_task(sandbox_model, sandbox_tokenizer):
    method = {"name": "sliding", "label": "own", "options": {"sink": 1}, "per_task": {"copy": {"window": 5}}}
    needle, copy = configs(sandbox_model, sandbox_tokenizer, method, budgets=[])
    assert copy.config["window"] == 5
    assert needle.config["window"] != 5
    assert needle.config["sink"] == copy.config["sink"] == 1
    assert needle.key != copy.key


@pytest.mark.parametrize(
    "per_task, said",
    [
        ({"copi": {"window": 5}}, "per_task names copi, which the suite does not ask"),
        ({"copy": {"windw": 5}}, "Did you mean 'window'"),
    ],
)
def test_bad_options_per_task(per_task, said):
    method = {"name": "sliding", "label": "own", "options": {}, "per_task": per_task}
    with pytest.raises(UsageError, match=said):
        checked({"methods": [method], "tasks": ["copy"], "lengths": [96]})


def test_a_router_trained_anew_makes_cells_stale(sandbox_model, sandbox_tokenizer, router, tmp_path):
    def plan(folder):
        return configs(sandbox_model, sandbox_tokenizer, {"name": "flux", "options": {"router": str(folder)}})[0]

    with attnpatch.apply(sandbox_model, "flux", router="untrained", local=8, sink=2, seed=1) as patch:
        folder = patch.save_pretrained(tmp_path / "router")
    before = plan(folder)
    assert before.fields["method"]["contents"] == plan(folder).fields["method"]["contents"]
    assert before.key == plan(folder).key
    described = (folder / "attnpatch_config.json").read_text()
    (folder / "attnpatch.safetensors").write_bytes((router / "attnpatch.safetensors").read_bytes())
    trained = plan(folder)
    assert trained.key != before.key
    (folder / "attnpatch_config.json").write_text(json.dumps(json.loads(described) | {"config": {"local": 9}}))
    assert plan(folder).key not in (trained.key, before.key)
    assert "contents" not in configs(sandbox_model, sandbox_tokenizer, "sliding")[0].fields["method"]
    (folder / "attnpatch.safetensors").unlink()
    with pytest.raises(UsageError, match=r"holds no attnpatch\.safetensors"):
        plan(folder)


def test_other_prompts_make_cells_stale(sandbox_model, sandbox_tokenizer, tmp_path):
    path = tmp_path / "prompts.jsonl"
    method = {"name": "flux", "options": {"plan": "entropy:0.5", "prompts": str(path)}}
    keys = set()
    for text in ('{"input_ids": [1, 2, 3]}\n', '{"input_ids": [1, 2, 4]}\n'):
        path.write_text(text)
        keys.add(configs(sandbox_model, sandbox_tokenizer, method)[0].key)
    assert len(keys) == 2
    path.unlink()
    with pytest.raises(UsageError, match=r"prompts\.jsonl"):
        configs(sandbox_model, sandbox_tokenizer, method)


def test_the_committed_prompts_are_what_the_generator_gives():
    text = (data_path("evals") / "prompts" / "sandbox.jsonl").read_text()
    assert text == "".join(prompts.lines())
    found = prompts_from("evals/prompts/sandbox.jsonl")
    assert len(found) == 2 * 8
    assert all(256 <= len(ids) < 512 for ids in found)


def test_the_suite_ranks_layers_on_them():
    asked = [
        spec.options["prompts"] for spec in checked(load_suite("flux")).method_specs() if "prompts" in spec.options
    ]
    assert len(asked) == 4
    assert all(data_file(path).is_file() for path in asked)


def test_suites_survive_the_way_to_yaml(tmp_path):
    suite = majority_suite(Results([routed((4, 0), (0, 4))], {"suite": SUITE}))
    write_suite(suite, tmp_path / "new" / "majority.yaml")
    assert "&id" not in (tmp_path / "new" / "majority.yaml").read_text()
    read = checked(load_suite(tmp_path / "new" / "majority.yaml"))
    assert [spec.to_dict() for spec in read.method_specs()] == suite["methods"]
