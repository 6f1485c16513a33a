"""What training raises, and how a recipe's mistakes are told: all of them at once."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from attnpatch.patching.errors import AttnPatchError, did_you_mean


class RecipeError(AttnPatchError):
    """Something in a recipe is wrong; the message names each key, its value, what is allowed and the fix."""


class DataError(AttnPatchError):
    """The data of a recipe cannot be used; the message names the source, and file, row and column if it has them."""


class TrainingError(AttnPatchError):
    """Training cannot begin, go on or be resumed; the message says where it stood and what is kept."""


class Problems(ValueError):
    """Several problems found by one validator; `parts` keeps them apart."""

    def __init__(self, parts: list[str]) -> None:
        super().__init__(" ".join(parts))
        self.parts = parts


def explain(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One sentence for each problem that pydantic found in a `model`."""
    lines: list[str] = []
    for problem in error.errors():
        loc = [str(part) for part in problem["loc"] if not str(part).startswith(("dict[", "list["))]
        path = ".".join(loc)
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, Problems):
            lines += [f"{path}: {part}" if path else part for part in cause.parts]
        elif problem["type"] == "extra_forbidden":
            fields = _model_at(model, loc[:-1]).model_fields
            lines.append(f"unknown key {path!r}.{did_you_mean(loc[-1], fields)} Allowed: {', '.join(fields)}.")
        elif problem["type"] == "missing":
            field = _model_at(model, loc[:-1]).model_fields[loc[-1]]
            lines.append(f"key {path!r} is missing: {field.description}.")
        else:
            lines.append(_wrong_value(path, problem))
    return lines


def _wrong_value(path: str, problem: dict[str, Any]) -> str:
    message, value = problem["msg"].removeprefix("Value error, ").rstrip("."), problem.get("input")
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:79] + "…"
    expected = problem.get("ctx", {}).get("expected", "")
    hint = did_you_mean(str(value), expected.replace("'", "").replace(" or ", ", ").split(", ")) if expected else ""
    return f"{path}: {message} (got {shown}).{hint}" if path else f"{message}."


def _model_at(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """The settings class at a key path; list indices are passed over."""
    for part in path:
        if part in model.model_fields:
            model = _inner_model(model.model_fields[part].annotation) or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := _inner_model(one))), None)
