"""A suite: one evaluation as data, from YAML, from the command line or from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from attnpatch.data_files import data_path
from attnpatch.evaluation import tasks
from attnpatch.evaluation.batch_size import BatchSize, parse_batch_size
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.lm_eval import LmEvalSettings
from attnpatch.evaluation.methods import MethodSpec, parse_methods
from attnpatch.evaluation.reported import Reported
from attnpatch.evaluation.sizes import Size, check_budget, parse_tokens
from attnpatch.evaluation.vision.settings import VisionSettings
from attnpatch.patching.errors import AttnPatchError, did_you_mean


class TaskChoice(BaseModel):
    """A task in a suite, with its own number of documents if it needs one."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    limit: int | None = Field(None, ge=1, description="documents; the suite's limit if not given")


class Suite(BaseModel):
    """What one run measures.

    methods: text (`sliding:window=256`), or mappings with name, options, label, match, per_task. budgets: mean
    visible keys per prefill query that every method without a window of its own is matched to, as tokens or
    `length/8`; none: methods run as configured. seeds: for methods that draw at random. limit: documents per task.
    depths: of the needle, in percent, for tasks that place one. speed_rounds: times each method is timed in turn
    with the others; 0: not at all. batch_size: documents per forward, or "auto". generation_batch_size: for tasks
    that generate; chat_template: for those and for lm-eval's. lm_eval: how lm-eval's tasks are asked; vision: those
    with pictures. reported: numbers that others published, to stand beside ours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = "custom"
    description: str = ""
    model: str = "sandbox:text"
    methods: list[Any] = Field(min_length=1)
    budgets: list[Size] = []
    tasks: list[TaskChoice] = Field(min_length=1)
    lengths: list[int] = Field([512], min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    limit: int = Field(32, ge=1)
    batch_size: BatchSize = 4
    generation_batch_size: BatchSize = 1
    depths: list[Annotated[float, Field(ge=0, le=100)]] = []
    chat_template: bool = False
    data_seed: int = Field(0, ge=0)
    lm_eval: LmEvalSettings = LmEvalSettings()
    vision: VisionSettings = VisionSettings()
    speed_rounds: int = Field(7, ge=0)
    reported: list[Reported] = []

    @field_validator("tasks", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        wanted = [{"name": one} if isinstance(one, str) else one for one in value]
        return [
            {**one, "name": name} if isinstance(one, dict) else one
            for one in wanted
            for name in tasks.expand(one.get("name") if isinstance(one, dict) else one)
        ]

    @field_validator("lengths", mode="before")
    @classmethod
    def _tokens(cls, value: Any) -> Any:
        return [parse_tokens(one) for one in value] if isinstance(value, (list, tuple)) else value

    @field_validator("budgets", mode="before")
    @classmethod
    def _budgets(cls, value: Any) -> Any:
        return [check_budget(one) for one in value] if isinstance(value, (list, tuple)) else value

    @field_validator("batch_size", "generation_batch_size", mode="before")
    @classmethod
    def _batch_sizes(cls, value: Any) -> BatchSize:
        return parse_batch_size(value)

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: list[int]) -> list[int]:
        if min(value) < 0 or len(set(value)) < len(value):
            raise ValueError("seeds must be different and not negative")
        return value

    def method_specs(self) -> list[MethodSpec]:
        """The methods, stock first."""
        return parse_methods(self.methods, budgets=bool(self.budgets), model=self.model)


def make_suite(**values: Any) -> Suite:
    """A checked suite: values, tasks, methods and their options.

    Raises:
        UsageError: an unknown key, task or method, or a value out of range.
    """
    try:
        suite = Suite(**{key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        raise UsageError(_explain(error)) from None
    tasks.check_names([task.name for task in suite.tasks], suite.lm_eval.include_path)
    asked = [task.name for task in suite.tasks]
    for spec in suite.method_specs():
        unused = [name for name in spec.per_task if name not in asked]
        if unused:
            raise UsageError(
                f"method {spec.label!r}: per_task names {', '.join(unused)}, which the suite does not ask. "
                f"Allowed: {', '.join(asked)}."
            )
    return suite


_PARTS = {
    "tasks": TaskChoice,
    "lm_eval": LmEvalSettings,
    "vision": VisionSettings,
    "reported": Reported,
}  # what is nested in a suite


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            *above, word = map(str, problem["loc"])
            fields = (_PARTS[above[0]] if above else Suite).model_fields
            lines.append(f"unknown key {path!r}.{did_you_mean(word, fields)} Allowed: {', '.join(fields)}.")
        else:
            lines.append(f"{path}: {problem['msg'].removeprefix('Value error, ')} (got {problem.get('input')!r}).")
    return "suite: " + " ".join(lines)


def suite_names() -> list[str]:
    """The suites that ship with the package."""
    return sorted(path.stem for path in (data_path("evals") / "suites").glob("*.yaml"))


def load_suite(name: str | Path) -> dict[str, Any]:
    """The values of a shipped suite, or of a YAML file, not yet checked.

    Raises:
        UsageError: no such suite, or not a YAML mapping.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = data_path("evals") / "suites" / f"{name}.yaml"
        if not path.is_file():
            names = suite_names()
            raise UsageError(
                f"unknown suite {str(name)!r}.{did_you_mean(str(name), names)} Allowed: {', '.join(names)}, or a path "
                "that ends in .yaml."
            )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"suite {str(path)!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"suite {str(path)!r} is not a YAML mapping.")
    return {"name": path.stem, **values}


def checked(values: dict[str, Any]) -> Suite:
    """`make_suite` for values that came from several places; AttnPatchError becomes UsageError."""
    try:
        return make_suite(**values)
    except UsageError:
        raise
    except AttnPatchError as error:
        raise UsageError(str(error)) from error
