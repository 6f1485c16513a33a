"""What a finished run leaves: a router that loads, cards, and a table of what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import attnpatch
from attnpatch.patching.saved import CONFIG_FILE, TENSOR_FILE
from attnpatch.training.measure import _majority, _mean_omega, as_table
from attnpatch.training.model_card import public_name, values_of
from attnpatch.training.recipe import load_recipe, make_recipe
from attnpatch.training.run import Run
from attnpatch.training.train import Trained, train

from .conftest import table
from .runs import routed, run, save_model, state_of

EVALUATION = {
    "tasks": ["needle", "local_context"],
    "lengths": [128],
    "limit": 2,
    "baselines": ["full", "sparse", "random", "entropy", "calibrate", "majority"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("machine") / "tiny", layers=3)


@pytest.fixture(scope="module")
def done(model, tmp_path_factory) -> Trained:
    folder = tmp_path_factory.mktemp("run") / "out"
    return train(routed(model, folder, evaluation=EVALUATION), progress=False, name="flux/mine.yaml")


def test_the_router_loads(done, model):
    trained = state_of(done.folder, 4)["trained"]
    loaded = AutoModelForCausalLM.from_pretrained(model).eval()
    patch = attnpatch.load(loaded, done.folder / "router")
    own = patch.methods[0].routers.state_dict()
    assert {f"routers.{name}" for name in own} == {name for name in trained if name.startswith("routers.")}
    assert all(torch.equal(value, trained[f"routers.{name}"]) for name, value in own.items())
    config = patch.methods[0].config
    assert (config.sparse, config.local, config.sink, config.decode) == ("sliding", 8, 2, "sparse")
    assert patch.methods[0].routers.shape.pool == 4
    with torch.no_grad():
        loaded(torch.arange(5, 69)[None])
    assert "omega" in str(patch.report())
    patch.remove()


def test_it_is_refused_by_another_architecture(done):
    from tests.zoo import build

    with pytest.raises(attnpatch.patching.errors.AttnPatchError, match="hidden_size is 32, not 64"):
        attnpatch.load(build("qwen3"), done.folder / "router")


def test_gates_at_inference_are_those_of_training(done, model):
    """The share of sparse layers in the log is what the saved router decides for the same prompts."""
    given = routed(model, done.folder)
    from attnpatch.sandbox.text.vocabulary import build_tokenizer
    from attnpatch.training.mixture import Mixture
    from attnpatch.training.trainee import Trainee, shares_of

    loaded = AutoModelForCausalLM.from_pretrained(model).eval()
    trainee = Trainee(loaded, given)
    trainee.restore(state_of(done.folder, 4)["trained"])
    with torch.no_grad():  # sure of themselves, so that noise does not change what later layers see
        for router in trainee.routers.layers.values():
            router.head[-1].weight *= 1e4
            router.head[-1].bias *= 1e4
    packs = Mixture(given, build_tokenizer()).packs(0)
    state = {name: value.clone() for name, value in trainee.routers.state_dict().items()}
    with torch.no_grad():
        found = [trainee(pack, share)[1]["omega"] for pack, share in zip(packs, shares_of(packs, 0), strict=True)]
    trainee.finish()
    patch = attnpatch.load(loaded, done.folder / "router")
    patch.methods[0].routers.load_state_dict(state)
    for pack, omegas in zip(packs, found, strict=True):
        for sample, omega in zip(pack.samples, omegas, strict=True):
            patch.reset()
            with torch.no_grad():
                loaded(torch.tensor([sample.input_ids[: sample.prompt_end]]))
            gates = [gate for (gate,) in patch.methods[0].gates.values()]
            assert 1 - sum(gates) / len(gates) == pytest.approx(omega)
    patch.remove()


def test_the_files(done):
    assert {path.name for path in done.folder.iterdir()} == {
        "checkpoints", "evaluation.json", "evaluation.md", "prompts.jsonl", "recipe.yaml", "router", "train_log.jsonl",
    }  # fmt: skip
    assert {path.name for path in (done.folder / "router").iterdir()} == {CONFIG_FILE, TENSOR_FILE, "README.md"}


def test_the_card(done):
    card = (done.folder / "router" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head == {"library_name": "attnpatch", "tags": ["attnpatch", "flux"]}
    assert "# flux for tiny\n" in card
    assert "far 0.5, near 1.0" in card
    assert "| step | nll | Ω far | Ω near | tokens |" in card
    assert [f"| {step} | " in card for step in (1, 2, 3, 4, 5)] == [True] * 4 + [False]
    assert "`attnpatch train flux/mine.yaml`" in card
    assert "| router | 128 |" in card
    assert 'attnpatch.load(model, "FOLDER_OR_HUB_ID")' in card
    shown = yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0])
    again = make_recipe({**shown, "training": {**shown["training"], "output_dir": "x"}})
    assert again.router == routed("m", done.folder).router
    assert again.router.initializer_range is None


def test_the_table(done):
    found = json.loads((done.folder / "evaluation.json").read_text())
    assert found["rows"] == done.evaluation
    assert found["recipe"] == "flux/mine.yaml"
    rows = {(row["what"], row["task"]): row for row in done.evaluation}
    whats = {what for what, _ in rows}
    seeds = {f"random, seed {seed}" for seed in (0, 1, 2)}
    assert whats == {
        "stock", "router", "full", "sparse", *seeds, "entropy", "calibrate", "majority", "majority, told the task",
    }  # fmt: skip
    assert len(rows) == len(done.evaluation) == 2 * len(whats)
    assert {row["status"] for row in done.evaluation} == {"ok"}
    for task in EVALUATION["tasks"]:
        assert rows["stock", task]["value"] == rows["full", task]["value"]
        assert rows["full", task]["omega"] == 0
        assert rows["sparse", task]["omega"] == 1
        assert rows["stock", task]["omega"] is None
        assert rows["sparse", task]["mean_keys"] < rows["full", task]["mean_keys"]
    mean = sum(rows["router", task]["omega"] for task in EVALUATION["tasks"]) / 2
    for what in (*seeds, "entropy", "calibrate"):
        for task in EVALUATION["tasks"]:
            omega = rows[what, task]["omega"]
            assert omega <= mean + 1e-6 < omega + 1 / 3  # as many full layers as the router, or a part of one more
    header, lines = as_table(done.evaluation)
    assert header == ["what", "length", "needle", "local_context", "mean keys"]
    assert len(lines) == len(whats)
    text = (done.folder / "evaluation.md").read_text()
    assert "| stock | 128 |" in text


def test_no_folder_of_this_machine_is_written(done, model):
    """But output_dir and model in recipe.yaml, as they were given."""
    for path in done.folder.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".md"):
            text = path.read_text()
            for folder in (model.parent, done.folder.parent, Path(attnpatch.__file__).parent.parent):
                assert str(folder) not in text, path
    lines = (done.folder / "recipe.yaml").read_text().splitlines()
    assert [line.strip().partition(":")[0] for line in lines if str(done.folder.parent) in line] == ["output_dir"]
    assert [line.partition(":")[0] for line in lines if str(model) in line] == ["model"]


def test_the_written_recipe_is_the_recipe(done, model, tmp_path):
    assert load_recipe(done.folder / "recipe.yaml") == routed(model, done.folder, evaluation=EVALUATION)
    sources = [table("rows.jsonl", omega=0.5)]
    for given in (routed(model, tmp_path, data={"sources": sources}, training={"save_total_limit": None}),):
        assert make_recipe(values_of(given)) == given


def test_a_finished_run_is_measured_again_without_training(done, model, monkeypatch):
    monkeypatch.setattr(Run, "_advance", None)
    before = (done.folder / "router" / TENSOR_FILE).read_bytes()
    given = routed(model, done.folder, evaluation={**EVALUATION, "baselines": [], "tasks": ["needle"], "limit": 1})
    again = train(given, progress=False)
    assert [row["what"] for row in again.evaluation] == ["stock", "router"]
    assert (again.step, again.finished) == (4, True)
    assert (done.folder / "router" / TENSOR_FILE).read_bytes() == before


def test_what_was_trained_is_saved_before_it_is_measured(model, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr("attnpatch.training.measure.measure", fails)
    given = routed(model, tmp_path, evaluation={"tasks": ["needle"], "lengths": [128]}, training={"max_steps": 1})
    with pytest.raises(MemoryError):
        train(given, progress=False)
    assert "| step | nll |" in (tmp_path / "router" / "README.md").read_text()
    assert "## Measured" not in (tmp_path / "router" / "README.md").read_text()
    attnpatch.load(AutoModelForCausalLM.from_pretrained(model), tmp_path / "router").remove()


def test_an_adapter_is_measured_with_and_without_it(model, tmp_path):
    given = routed(
        model, tmp_path, method={"name": "sliding", "options": {"window": 8}}, router=None,
        lora={"r": 2, "learning_rate": 0.05}, training={"max_steps": 3},
        evaluation={"tasks": ["perplexity"], "lengths": [128], "limit": 1},
    )  # fmt: skip
    rows = {row["what"]: row for row in train(given, progress=False).evaluation}
    assert list(rows) == ["stock", "method", "adapter", "method + adapter"]
    assert len({row["value"] for row in rows.values()}) == 4
    assert rows["method"]["mean_keys"] == rows["method + adapter"]["mean_keys"] < rows["stock"]["mean_keys"]
    assert "| method + adapter | 128 |" in (tmp_path / "adapter" / "README.md").read_text()


def test_a_run_that_logged_nothing(model, tmp_path):
    run(routed(model, tmp_path, training={"max_steps": 1, "logging_steps": 5}))
    assert "| 1 | " in (tmp_path / "router" / "README.md").read_text()  # the last step always is


def row(task: str, omega: float | None, routes: dict[int, dict[str, int]] | None = None) -> dict:
    return {"what": "router", "task": task, "omega": omega, "routes": routes or {}}


def test_plans_get_no_less_than_the_router():
    assert _mean_omega([row("a", 2 / 3)], 6) == pytest.approx(4 / 6)
    assert _mean_omega([row("a", 0.5), row("b", 0.9)], 6) == pytest.approx(4 / 6)  # 0.7: 1.8 full layers, so two
    assert _mean_omega([row("a", None), row("b", 1.0)], 6) == 1.0
    assert _mean_omega([], 6) == 0.5


def test_majority():
    rows = [row("a", 0.5, {0: {"full": 3}, 1: {"sparse": 2, "full": 1}}), row("b", 0.5, {0: {"sparse": 2}})]
    assert _majority(rows) == "fs"
    assert _majority([row("a", 0.5, {0: {"full": 1, "sparse": 1}})]) == "s"


def test_public_names(model):
    assert public_name(str(model)) == "tiny"
    assert public_name("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    assert public_name("sandbox:text") == "sandbox:text"
