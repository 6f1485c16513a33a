"""Recipes: those that ship load, every mistake is named, and all of them at once."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from attnpatch.data_files import data_path
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.method import method_names
from attnpatch.training.recipe import RecipeError, load_recipe, make_recipe, parse_overrides, recipe_names

from .conftest import table, values

ROUTED = pytest.mark.skipif("flux" not in method_names(), reason="flux is not registered")


def routed(**changes: Any) -> dict[str, Any]:
    """A good recipe that trains a router."""
    made = values(method={"name": "flux", "options": {}}, router={}, **changes)
    del made["lora"]
    for source in made["data"]["sources"]:
        source.setdefault("omega", 0.5)
    return made


def wrong(made: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as error:
        make_recipe(made, "mine")
    assert isinstance(error.value, AttnPatchError)
    return str(error.value)


def test_recipes_ship():
    real = {"flux/qwen3-4b", "flux/qwen3-8b", "flux/llama-3.1-8b", "lora/qwen3-8b-stochastic"}
    assert real | {"flux/sandbox", "lora/sandbox-sliding"} <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load(name):
    if name.startswith("flux/") and "flux" not in method_names():
        pytest.skip("flux is not registered")
    recipe = load_recipe(name)
    assert recipe == load_recipe(f"recipes/{name}.yaml") == load_recipe(data_path("recipes") / f"{name}.yaml")
    header = (data_path("recipes") / f"{name}.yaml").read_text().partition("\n\n")[0]
    assert f"recipes/{name}.yaml" in header, "the header gives the exact command"
    assert "Hardware" in header
    assert recipe.router is None or set(recipe.method.options).isdisjoint({"router", "plan"})


@ROUTED
@pytest.mark.parametrize("name", ["flux/qwen3-4b", "flux/qwen3-8b", "flux/llama-3.1-8b"])
def test_flux_recipes_hold_the_papers_numbers(name):
    recipe = load_recipe(name)
    assert (recipe.training.max_steps, recipe.data.packs_per_step, recipe.data.pack_tokens) == (300, 48, 65_536)
    assert (recipe.data.min_tokens, recipe.router.learning_rate, recipe.router.weight_decay) == (1000, 5e-4, 0.1)
    assert (recipe.router.multiplier_learning_rate, recipe.router.multiplier_init) == (1e-3, (0.0, 0.5))
    training = recipe.training
    assert (training.adam_beta1, training.adam_beta2, training.warmup_ratio) == (0.9, 0.95, 0.2)
    assert (training.max_grad_norm, training.loss_on, training.bf16) == (5.0, "all", True)
    targets = {source.omega for source in recipe.data.sources}
    assert targets == {0.45, 1.0}
    assert "--num_processes 8" in (data_path("recipes") / f"{name}.yaml").read_text()


def test_files_and_overrides(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values()))
    assert load_recipe(path).training.max_steps == 2
    changed = load_recipe(
        path,
        parse_overrides(
            [
                "training.max_steps=7",
                "data.sources.0.lengths=[64]",
                "lora.learning_rate=3e-4",
                "evaluation.tasks=[needle]",
                "evaluation.lengths=[64]",
                "training.output_dir=a=b",
            ]
        ),
    )
    assert changed.training.max_steps == 7
    assert changed.data.sources[0].lengths == [64]
    assert changed.lora.learning_rate == 3e-4
    assert changed.evaluation.tasks == ["needle"]
    assert changed.training.output_dir == "a=b"
    assert load_recipe(path, {"lora": None, "lora.r": 4}).lora.r == 4


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["training.max_steps"], "--set training.max_steps=2"),
        (["=2"], "cannot read --set"),
        (["a=[1"], "is not YAML"),
        (["data.sources.3.omega=1"], "not an index of a list of 1; use 0 to 0"),
        (["model.name=x"], "'model' is 'sandbox:text'"),
        (["training.max_step=3"], "unknown key 'training.max_step'. Did you mean 'max_steps'?"),
        (["training.max_steps=many"], "training.max_steps: Input should be a valid integer"),
    ],
)
def test_overrides_that_do_not_work(tmp_path, overrides, message):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values()))
    with pytest.raises(RecipeError) as error:
        load_recipe(path, parse_overrides(overrides))
    assert message in str(error.value)


def test_unknown_and_unreadable_files(tmp_path):
    with pytest.raises(RecipeError, match="Did you mean 'lora/sandbox-sliding'"):
        load_recipe("lora/sandbox-slidin")
    with pytest.raises(RecipeError, match=r"ends in \.yaml"):
        load_recipe(tmp_path / "none.yaml")
    for text, message in (("- 1", "not a YAML mapping"), ("a: [", "cannot be read"), ("", "not a YAML mapping")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(RecipeError, match=message):
            load_recipe(tmp_path / "bad.yaml")


SOURCE = {"task": "mixed", "sandbox": ["needle"], "lengths": [64]}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metod": {}}, "unknown key 'metod'. Did you mean 'method'?"),
        ({"lora": {"rank": 3}}, "unknown key 'lora.rank'."),
        ({"lora": {"target_modules": []}}, "lora.target_modules: must name at least one module"),
        ({"lora": {"lora_dropout": 1}}, "lora.lora_dropout"),
        ({"dtype": "float8"}, "got 'float8'). Did you mean 'float32'?"),
        ({"lora": None}, "nothing to train: give a router block, a lora block, or both"),
        ({"method": {"name": "slidng"}}, "method.name: unknown method 'slidng'. Did you mean 'sliding'?"),
        ({"method": {"name": "sliding", "options": {"windw": 3}}}, "unknown option 'windw'. Did you mean 'window'?"),
        ({"method": {"name": "sliding", "options": {"window": 0}}}, "option window=0"),
        ({"method": {}}, "key 'method.name' is missing: a registered method"),
        ({"router": {}}, "method 'sliding' has no router to train; use flux"),
        ({"router": {"pool": 0}}, "router.pool"),
        ({"router": {"gates": "firm"}}, "router.gates: Input should be 'hard' or 'soft' (got 'firm')"),
        ({"router": {"multiplier_init": [0.5, 0.1]}}, "router.multiplier_init: must be [low, high]"),
        ({"router": {"learning_rate": float("nan")}}, "router.learning_rate"),
        ({"data": {"max_tokens": 1024}}, "data.max_tokens: 1024 is more than data.pack_tokens (512)"),
        ({"data": {"min_tokens": 200}}, "data.min_tokens: 200 is more than data.max_tokens (128)"),
        ({"data": {"sources": []}}, "data.sources"),
        ({"data": {"longer": "cut"}}, "data.longer: Input should be 'drop', 'truncate' or 'error'"),
        ({"training": {"output_dir": ""}}, "training.output_dir"),
        ({"training": {"report_to": "wandbb"}}, "Did you mean 'wandb'?"),
        ({"training": {"bf16": True}, "dtype": "float16"}, "training.bf16: bfloat16 autocast over float16"),
        ({"evaluation": {"tasks": ["nedle"], "lengths": [64]}}, "evaluation.tasks: unknown task 'nedle'"),
        ({"evaluation": {"tasks": ["needle"], "lengths": [0]}}, "evaluation.lengths"),
        ({"evaluation": {"tasks": ["needle"], "lengths": [64], "baselines": ["rndom"]}}, "Did you mean 'random'?"),
    ],
)
def test_mistakes(changes, message):
    assert message in wrong(values(**changes))


@pytest.mark.parametrize(
    "source, message",
    [
        ({**SOURCE, "omga": 1}, "unknown key 'data.sources.0.omga'. Did you mean 'omega'?"),
        ({**SOURCE, "omega": 1.5}, "data.sources.0.omega: Input should be less than or equal to 1 (got 1.5)"),
        ({**SOURCE, "omega": float("nan")}, "data.sources.0.omega"),
        ({**SOURCE, "weight": 0}, "data.sources.0.weight"),
        ({"sandbox": ["needle"], "lengths": [64]}, "key 'data.sources.0.task' is missing"),
        ({"task": "x"}, "exactly one of sandbox, dataset, files, got none"),
        ({**SOURCE, "dataset": "a/b"}, "got both sandbox and dataset"),
        ({**SOURCE, "sandbox": ["nedle"]}, "unknown sandbox task 'nedle'. Did you mean 'needle'?"),
        ({**SOURCE, "sandbox": []}, "sandbox is empty"),
        ({**SOURCE, "lengths": []}, "sandbox task 'needle' has no lengths"),
        ({**SOURCE, "lengths": [8]}, "length 8 does not work for task 'needle'"),
        ({**SOURCE, "lengths": [256]}, "data.sources.0.sandbox.needle: lengths [256] are outside"),
        ({**SOURCE, "sandbox": {"needle": {"fact": 2}}}, "task 'needle' has no option 'fact'"),
        ({**SOURCE, "sandbox": {"needle": {"facts": 90}}}, "length 64 is too small for these facts"),
        ({**SOURCE, "prompt": "fraction:1.5"}, "must be first_answer, or a fraction between 0 and 1"),
        ({**SOURCE, "prompt": "last"}, "must be first_answer"),
        ({**SOURCE, "columns": {"question": "{q}", "answer": "{a}"}}, "columns is for dataset and files"),
        ({**SOURCE, "limit": 3}, "limit is for dataset and files, not for sandbox"),
        (table("x", lengths=[3]), "lengths is for sandbox sources"),
        (table("x", config="a"), "config is for dataset, not for files"),
        ({**table("x"), "columns": None}, "files needs columns"),
        ({**table("x"), "files": []}, "files is empty"),
        ({**table("x"), "order": "mixed"}, "data.sources.0.order"),
        ({**table("x"), "columns": {"question": "{q}"}}, "give answer"),
        ({**table("x"), "columns": {"answer": "{a}"}}, "there is nothing to ask"),
        ({**table("x"), "columns": {"messages": "m", "question": "{q}"}}, "give messages or question, not both"),
        ({**table("x"), "columns": {"question": "{q", "answer": "{a}"}}, "template '{q' cannot be read"),
        ({**table("x"), "columns": {"question": "{}", "answer": "{a}"}}, "a field has no name"),
        ({**table("x"), "columns": {"question": "{q:3}", "answer": "{a}"}}, "has a format"),
        ({**table("x"), "columns": {"qestion": "{q}", "answer": "{a}"}}, "Did you mean 'question'?"),
    ],
)
def test_mistakes_in_sources(source, message):
    assert message in wrong(values(data={"sources": [source]}))


def test_all_problems_at_once():
    text = wrong(
        values(dtype="float8", lora={"rank": 3}, training={"max_steps": 0}, data={"sources": [{**SOURCE, "omega": 2}]})
    )
    assert text.startswith("recipe 'mine': 4 problems:")
    for part in ("dtype", "lora.rank", "training.max_steps", "data.sources.0.omega"):
        assert f"- {part}" in text or f"- unknown key '{part}'" in text


def test_problems_between_blocks_come_together():
    text = wrong(values(lora=None, data={"max_tokens": 1024, "sources": [{**SOURCE, "lengths": [2048]}]}))
    assert "3 problems" in text
    assert "nothing to train" in text


def test_one_task_has_one_target():
    sources = [{**SOURCE, "omega": 0.5}, {**SOURCE, "omega": 0.6}]
    assert "0.6 differs from 0.5, the target of task 'mixed'" in wrong(values(data={"sources": sources}))
    make_recipe(values(data={"sources": [{**SOURCE, "omega": 0.5}] * 2}))


def test_options_of_sandbox_tasks():
    source = {"task": "x", "sandbox": {"needle": {"lengths": [64], "facts": 2}, "copy": None}, "lengths": [128]}
    made = make_recipe(values(data={"sources": [source]})).data.sources[0].sandbox
    assert (made["needle"].lengths, made["needle"].options) == ([64], {"facts": 2})
    assert (made["copy"].lengths, made["copy"].options) == ([], {})


@ROUTED
def test_a_router_needs_targets():
    assert make_recipe(routed()).router.pool == 100
    sources = [{**SOURCE, "task": "a", "omega": 0.5}, {**SOURCE, "task": "b", "omega": None}]
    assert "data.sources.1.omega: task 'b' has no target" in wrong(routed(data={"sources": sources}))


@ROUTED
@pytest.mark.parametrize("option, value", [("router", "folder"), ("plan", "full")])
def test_the_trainer_sets_router_and_plan(option, value):
    made = routed()
    made["method"]["options"][option] = value
    assert f"method.options.{option}: leave it out" in wrong(made)


def test_recipes_do_not_change():
    made = make_recipe(values())
    with pytest.raises(ValueError, match="frozen"):
        made.model = "other"
