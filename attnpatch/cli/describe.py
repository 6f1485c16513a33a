"""The class of a method or companion as plain data: what `attnpatch list` and `attnpatch show` print."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from attnpatch.patching.configured import Configured
from attnpatch.patching.method import Method

if TYPE_CHECKING:
    from attnpatch.decoding import Companion

EXAMPLE_OPTIONS = 2  # options in the examples: the first ones matter most
_TYPES = {"integer": "int", "number": "float", "boolean": "bool", "string": "str", "array": "list", "null": "none"}


def describe(method: type[Method]) -> dict[str, Any]:
    """Everything about a method, JSON types only."""
    return {
        **facts(method),
        "needs": needs(method),
        "source": f"{method.__module__}:{method.__qualname__}",
        "replaces_keys": method.replaces_keys,
        "reads_whole_prompt": method.reads_whole_prompt,
        "compilable": method.compilable,
        "options": options(method),
        "examples": examples(method),
    }


def describe_companion(companion: type[Companion]) -> dict[str, Any]:
    """Everything about a companion of decoding, JSON types only."""
    python, spec = example_options(companion)
    return {
        **facts(companion),
        "needs": ["transformers' generate(), one new token per step"],
        "source": f"{companion.__module__}:{companion.__qualname__}",
        "one_row": companion.one_row,
        "options": options(companion),
        "examples": {
            "python": f'tokens = attnpatch.decoding.generate(model, inputs, "{companion.name}"{python})',
            "evaluate": f"attnpatch-eval run --model sandbox:vision --methods {spec} --tasks scenes_pope",
        },
    }


def facts(described: type[Configured]) -> dict[str, Any]:
    """What a method or companion says of itself."""
    keys = ("kind", "name", "summary", "paper", "neutral", "limits", "evidence", "released")
    return {key: getattr(described, key) for key in keys}


def needs(method: type[Method]) -> list[str]:
    """What a model and a run must bring for this method."""
    found = ["attention over sdpa or eager, through transformers' attention interface"]
    if method.replaces_keys:
        found.append("causal layers without softcap; no attention dropout; packed samples declared")
        found.append("no second method that decides which keys a query sees at the same layer")
    if method.needs_images:
        found.append("a model whose images stand as tokens in its text, and an image in the prompt")
    if method.reads_whole_prompt:
        found.append("the whole prompt before it decides")
    if not method.compilable:
        found.append("under torch.compile: it runs between the graphs, not inside them")
    return found


def options(method: type[Configured]) -> list[dict[str, Any]]:
    """The options of a method or companion: name, type, default, allowed values and help, from its config."""
    schema = method.Config.model_json_schema()
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "type": _type(field),
            "default": None if name in required else field.get("default"),
            "required": name in required,
            "allowed": _allowed(field),
            "help": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def examples(method: type[Method]) -> dict[str, str]:
    """One line of Python, and lines of shell, that use this method by its defaults, or by its example options."""
    python, spec = example_options(method)
    if method.needs_images:
        return {
            "python": f'patch = attnpatch.apply(model, "{method.name}"{python})',
            "look": f"attnpatch look sandbox:vision --method {spec}",
            "evaluate": f"attnpatch-eval run --model sandbox:vision --methods {spec} --tasks scenes_pope",
        }
    return {
        "python": f'patch = attnpatch.apply(model, "{method.name}"{python})',
        "inspect": f"attnpatch inspect sandbox:text --method {spec}",
        "bench": f"attnpatch bench model --method {spec}",
        "evaluate": f"attnpatch-eval run --methods {spec}",
    }


def example_options(described: type[Configured]) -> tuple[str, str]:
    """Options for an example, as arguments of a Python call and with the name as one types it in a shell.

    Quoted where a shell would read the brackets of a list as a pattern of file names.
    """
    defaults = {option["name"]: option["default"] for option in options(described) if option["default"] is not None}
    chosen = described.example_options or dict(list(defaults.items())[:EXAMPLE_OPTIONS])
    python = "".join(f", {name}={value!r}" for name, value in chosen.items())
    shell = ",".join(f"{name}={as_text(value)}" for name, value in chosen.items())
    return python, shlex.quote(f"{described.name}:{shell}" if shell else described.name)


def as_text(value: Any) -> str:
    """A value as one types it on a command line."""
    if isinstance(value, (list, tuple)):
        return json.dumps(value, separators=(",", ":"))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(part) for part in field["anyOf"])
    return _TYPES.get(field.get("type", ""), "str" if "enum" in field else "any")


def _allowed(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(filter(None, (_allowed(part) for part in field["anyOf"])))
    if "const" in field or "enum" in field:
        return ", ".join(map(str, field.get("enum", [field.get("const")])))
    if field.get("type") == "boolean":
        return "true, false"
    signs = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
    return ", ".join(f"{sign} {field[key]}" for key, sign in signs if key in field)
