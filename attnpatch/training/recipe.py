"""A recipe: one training run as data, from YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from attnpatch.data_files import data_path
from attnpatch.patching.errors import AttnPatchError, did_you_mean
from attnpatch.patching.method import build_config, method_class
from attnpatch.training.data_settings import DataSettings
from attnpatch.training.problems import Problems, RecipeError, explain
from attnpatch.training.settings import EvaluationSettings, LoraSettings, RouterSettings, Settings, TrainingSettings

ROUTER_OPTIONS = ("router", "plan")  # options that the trainer sets when a recipe trains the router


class MethodChoice(Settings):
    """The method that is in the model while it trains."""

    name: str = Field(description="a registered method, see `attnpatch list`")
    options: dict[str, Any] = Field({}, description="its options, see `attnpatch show NAME`")

    @property
    def routes(self) -> bool:
        """True if the method has a router to train."""
        return "router" in method_class(self.name).Config.model_fields


class Recipe(Settings):
    """What is trained, on what, and how."""

    model: str = Field(min_length=1, description="sandbox:text, a folder, or an id on the Hub")
    revision: str | None = Field(None, description="branch, tag or commit of the model")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the frozen weights")
    trust_remote_code: bool = Field(False, description="run model code that the checkpoint brings along")
    method: MethodChoice = Field(description="the method to train with: {name: ..., options: {...}}")
    router: RouterSettings | None = Field(None, description="train the routers of a method that routes")
    lora: LoraSettings | None = Field(None, description="train a LoRA adapter")
    data: DataSettings = Field(description="what to train on")
    training: TrainingSettings = Field(description="how to train")
    evaluation: EvaluationSettings | None = Field(None, description="what to measure at the end")

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        problems = [*_method_problems(self), *_data_problems(self), *_other_problems(self)]
        if problems:
            raise Problems(problems)
        return self


def _method_problems(recipe: Recipe) -> list[str]:
    problems = []
    if recipe.router is None and recipe.lora is None:
        problems.append("nothing to train: give a router block, a lora block, or both ({} takes all defaults).")
    method, options = recipe.method, dict(recipe.method.options)
    try:
        cls = method_class(method.name)
    except AttnPatchError as error:
        return [*problems, f"method.name: {error}"]
    if recipe.router is not None:
        if not method.routes:
            return [*problems, f"router: method {method.name!r} has no router to train; use flux, or a lora block."]
        given = [name for name in ROUTER_OPTIONS if options.pop(name, None) is not None]
        problems += [f"method.options.{name}: leave it out, training the router sets it." for name in given]
        if "plan" in cls.Config.model_fields:
            options["plan"] = "full"  # any plan: it stands in for the router that does not exist yet
    try:
        build_config(cls, options)
    except AttnPatchError as error:
        problems.append(f"method.options: {error}")
    return problems


def _data_problems(recipe: Recipe) -> list[str]:
    data, problems = recipe.data, []
    if data.max_tokens > data.pack_tokens:
        problems.append(
            f"data.max_tokens: {data.max_tokens} is more than data.pack_tokens ({data.pack_tokens}); a sample is "
            "never split, so a pack must hold the longest one."
        )
    if data.min_tokens > data.max_tokens:
        problems.append(f"data.min_tokens: {data.min_tokens} is more than data.max_tokens ({data.max_tokens}).")
    targets: dict[str, float | None] = {}
    for index, source in enumerate(data.sources):
        key = f"data.sources.{index}"
        if recipe.router is not None and source.omega is None:
            problems.append(
                f"{key}.omega: task {source.task!r} has no target; a router needs the wanted share of sparse layers "
                "of every task, from 0 to 1."
            )
        elif targets.setdefault(source.task, source.omega) != source.omega:
            problems.append(
                f"{key}.omega: {source.omega} differs from {targets[source.task]}, the target of task {source.task!r} "
                "in another source; use one target, or another task name."
            )
        for name, task in (source.sandbox or {}).items():
            bad = [n for n in task.lengths or source.lengths if not data.min_tokens <= n <= data.max_tokens]
            if bad:
                problems.append(
                    f"{key}.sandbox.{name}: lengths {bad} are outside data.min_tokens to data.max_tokens "
                    f"({data.min_tokens} to {data.max_tokens})."
                )
    return problems


def _other_problems(recipe: Recipe) -> list[str]:
    problems = []
    if recipe.training.bf16 and recipe.dtype == "float16":
        problems.append("training.bf16: bfloat16 autocast over float16 weights; use dtype: bfloat16 or float32.")
    if recipe.evaluation is not None:
        from attnpatch.evaluation.tasks import check_names  # the evaluation takes a second to import

        try:
            check_names(recipe.evaluation.tasks)
        except AttnPatchError as error:
            problems.append(f"evaluation.tasks: {error}")
    return problems


def recipe_names() -> list[str]:
    """The recipes that ship with the package, as `method/model`."""
    folder = data_path("recipes")
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
    """A checked recipe.

    Args:
        name_or_path: a shipped recipe (`flux/sandbox`, `recipes/flux/sandbox.yaml`), or any YAML file.
        overrides: values by key path, such as `{"training.max_steps": 2, "data.sources.0.omega": 0.5}`.

    Raises:
        RecipeError: no such recipe, or all that is wrong in it.
    """
    path = _find(name_or_path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe {str(path)!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {str(path)!r} is not a YAML mapping; start with `model: ...`.")
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    return make_recipe(values, str(name_or_path))


def make_recipe(values: dict[str, Any], name: str = "recipe") -> Recipe:
    """A recipe from its values; `name` is for messages.

    Raises:
        RecipeError: all that is wrong.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = explain(Recipe, error)
        head = f"recipe {name!r}: " + (f"{len(lines)} problems:" if len(lines) > 1 else "")
        raise RecipeError("\n- ".join([head, *lines]) if len(lines) > 1 else head + lines[0]) from None


def parse_overrides(given: list[str] | None) -> dict[str, Any]:
    """`["training.max_steps=2"]` as key paths and values; values are read as YAML.

    Raises:
        RecipeError: text without a key or a value that is not YAML.
    """
    overrides = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"cannot read --set {text!r}; write for example --set training.max_steps=2.")
        try:
            overrides[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f"--set {key}: the value {value!r} is not YAML: {error}") from error
    return overrides


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path).expanduser()
    is_file = path.suffix in (".yaml", ".yml")
    if is_file and path.is_file():
        return path
    shipped = (path.with_suffix("") if is_file else path).as_posix().removeprefix("recipes/")
    names = recipe_names()
    if shipped in names:
        return data_path("recipes") / f"{shipped}.yaml"
    raise RecipeError(
        f"unknown recipe {str(name_or_path)!r}.{did_you_mean(shipped, names)} Allowed: {', '.join(names)}, or a path "
        "that ends in .yaml."
    )


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets one value; blocks on the way that do not exist, or are null, are made."""
    *parents, last = key.split(".")
    place: Any = values
    for part in parents:
        place = _step_into(place, part, key)
    if isinstance(place, list):
        place[_index(place, last, key)] = value
    else:
        place[last] = value


def _step_into(place: Any, part: str, key: str) -> Any:
    part = _index(place, part, key) if isinstance(place, list) else part
    inner = place[part] if isinstance(place, list) else place.get(part)
    if inner is None:
        inner = place[part] = {}
    if not isinstance(inner, (dict, list)):
        raise RecipeError(f"key {key!r} cannot be set: {part!r} is {inner!r}, which has no keys below it.")
    return inner


def _index(place: list, part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise RecipeError(
            f"key {key!r} cannot be set: {part!r} is not an index of a list of {len(place)}; use 0 to "
            f"{len(place) - 1}."
        )
    return int(part)
