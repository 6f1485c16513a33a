"""Which methods to compare: `name:option=value,...` as text, a `(name, options)` pair, or a mapping in a suite."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnpatch.evaluation import companions
from attnpatch.evaluation.companions import CompanionSpec
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.sizes import is_share, resolve_size
from attnpatch.patching.errors import did_you_mean, unknown_name
from attnpatch.patching.method import Method, build_config, method_class, method_names

_SLICE = re.compile(r"-?\d*:-?\d*(:-?\d*)?")  # of layers
_BETWEEN = re.compile(r"[,;](?![^\[\]]*\])")  # options: not the commas of a list
MATCHED = "window"  # the option that is searched for a budget
KEYS = ("name", "options", "label", "match", "per_task", "per_model", "recipe", "companion")  # of a method in a suite
PER_MODEL = ("options", "recipe")  # of a model in its per_model


@dataclass(frozen=True)
class MethodSpec:
    """One method of a comparison.

    options: as given; an integer may be a share such as `"budget/2"`. label: its name in tables. match: the option
    that is searched until the measured budget fits, None if the method is run as it is. per_task: options that differ
    by the task, `{task: options}`. recipe: what `attnpatch train` takes to make the parameters that its options name.
    companion: what changes the logits while it writes; a companion alone is a method too, under its own name.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    label: str = ""
    match: str | None = None
    per_task: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipe: str | None = None
    companion: CompanionSpec | None = None

    @property
    def applied(self) -> str:
        """The method that the attention is patched with: none, that is stock, for a companion alone."""
        alone = self.companion is not None and self.companion.name == self.name
        return "stock" if alone else self.name

    def config(
        self, *, length: int, budget: int | None = None, task: str | None = None, **overrides: Any
    ) -> dict[str, Any]:
        """The full resolved config for a task, every option with its value, as JSON types.

        Raises:
            AttnPatchError: an option that does not exist or a value out of range.
        """
        given = {
            key: resolve_size(value, length=length, budget=budget) if is_share(value) else value
            for key, value in {**self.options, **self.per_task.get(task, {})}.items()
        }
        return build_config(method_class(self.applied), {**given, **overrides}).model_dump(mode="json")

    @property
    def stochastic(self) -> bool:
        """True if the method draws at random and the caller did not fix its seed."""
        asked = [{**self.options, **options} for options in ({}, *self.per_task.values())]
        draws = method_class(self.applied).draws_at_random
        return any("seed" not in options and draws(options) for options in asked)

    def to_dict(self) -> dict[str, Any]:
        """As a suite holds it."""
        rest = {"match": self.match, "per_task": self.per_task, "recipe": self.recipe}
        options = self.options
        if self.companion is not None and self.companion.name == self.name:
            options = dict(self.companion.options)
        elif self.companion is not None:
            rest["companion"] = {"name": self.companion.name, "options": dict(self.companion.options)}
        return {"name": self.name, "label": self.label, "options": options} | {k: v for k, v in rest.items() if v}


def parse_method(
    given: str | tuple | Mapping | MethodSpec, *, budgets: bool = False, model: str | None = None
) -> MethodSpec:
    """A `MethodSpec` from what a user gave; `budgets` says whether budgets are matched, `model` what it is put into.

    Raises:
        AttnPatchError: an unknown method or option.
        UsageError: text or a type that cannot be read.
    """
    label, match, per_task, recipe, companion = "", None, {}, None, None
    if isinstance(given, MethodSpec):
        return given
    if isinstance(given, str):
        name, options = from_text(given)
    elif isinstance(given, Method):
        name, options = given.name, given.config.model_dump(mode="json")
    elif isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        name, options = given[0], dict(given[1])
    elif isinstance(given, Mapping) and "name" in given:
        _check_keys(given, KEYS, f"method {given['name']!r}")
        own = _of_model(given, model)
        name, options = given["name"], {**(given.get("options") or {}), **(own.get("options") or {})}
        label, match, recipe = given.get("label") or "", given.get("match"), own.get("recipe", given.get("recipe"))
        per_task = {task: dict(own) for task, own in (given.get("per_task") or {}).items()}
        companion = _companion(given.get("companion"))
    else:
        raise UsageError(
            f"method {given!r} is not known; write 'sliding:window=256,sink=4' or ('sliding', {{'window': 256}})."
        )
    if name in companions.names() and name not in method_names():
        if companion is not None:
            raise UsageError(f"method {name!r} is a decoding companion itself; it cannot have another one.")
        companion = CompanionSpec(name, options)
        spec = MethodSpec(name, {}, label or default_label(name, options), companion=companion)
        companion.build()
        return spec
    if name not in method_names():
        raise unknown_name("method", name, [*method_names(), *companions.names()])  # here both are methods
    fields = method_class(name).Config.model_fields
    if match is None and budgets and MATCHED in fields and MATCHED not in options:
        match = MATCHED
    if match is not None and match not in fields:
        raise UsageError(
            f"method {name!r} has no option {match!r} to match. Allowed: {', '.join(fields) or '(none)'}."
        )
    if match is not None and match in options:
        raise UsageError(f"method {name!r}: option {match!r} is both given and matched to the budget; leave it out.")
    label = label or default_label(name, options) + (f" + {companion.name}" if companion else "")
    spec = MethodSpec(name, options, label, match, per_task, recipe, companion)
    if companion is not None:
        companion.build()
    for task in (None, *per_task):  # unknown options and bad values fail here
        spec.config(length=1024, budget=None if not budgets else 128, task=task)
    return spec


def _companion(given: str | Mapping | None) -> CompanionSpec | None:
    """A companion of a method, from text or a mapping with name and options; whether it exists shows when built."""
    if given is None:
        return None
    if isinstance(given, str):
        return CompanionSpec(*from_text(given))
    _check_keys(given, ("name", "options"), "a companion")
    return CompanionSpec(str(given.get("name")), dict(given.get("options") or {}))


def same_model(one: str, other: str) -> bool:
    """True for a Hub id and itself, or a folder or another owner's copy of that name."""
    return one.rstrip("/").rpartition("/")[2].lower() == other.rstrip("/").rpartition("/")[2].lower()


def _of_model(given: Mapping, model: str | None) -> Mapping:
    """The part of `per_model` that is for `model`; {} for a method without one."""
    parts = {name: own or {} for name, own in (given.get("per_model") or {}).items()}
    for own in parts.values():
        _check_keys(own, PER_MODEL, f"per_model of method {given['name']!r}")
    found = [own for name, own in parts.items() if model is not None and same_model(name, model)]
    if parts and not found:
        raise UsageError(
            f"method {given.get('label') or given['name']!r} has no per_model entry for {model!r}. Allowed: "
            f"{', '.join(parts)}, or a folder of that name; leave the method out, or add an entry to the suite."
        )
    return found[0] if found else {}


def _check_keys(given: Mapping, allowed: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in allowed:
            raise UsageError(
                f"unknown key {key!r} in {where}.{did_you_mean(str(key), allowed)} Allowed: {', '.join(allowed)}."
            )


def from_text(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of `sliding:window=256,sink=4` or `icd:prefix_ids=[11,12]`, not yet checked.

    Raises:
        UsageError: an option without a value, or a value that cannot be read.
    """
    import yaml

    name, _, rest = text.strip().partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in _BETWEEN.split(rest))):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UsageError(f"cannot read {part!r} in method {text!r}; write for example sliding:window=256,sink=4.")
        try:  # YAML takes 12:23 for a number to the base of 60, and 2: for a mapping
            options[key.strip()] = value if _SLICE.fullmatch(value) else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(
                f"cannot read {part!r} in method {text!r}; write a list in brackets, such as var:dims=[30,31]."
            ) from error
    return name, options


def default_label(name: str, options: Mapping[str, Any]) -> str:
    """`sliding` or `sliding(sink=0, window=64)`."""
    inner = ", ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in sorted(options.items())
    )
    return f"{name}({inner})" if inner else name


def parse_methods(given: list, *, budgets: bool, model: str | None = None) -> list[MethodSpec]:
    """All methods, `stock` first (added if absent), labels unique.

    Raises:
        AttnPatchError: an unknown method or option.
        UsageError: the same method twice.
    """
    specs = [parse_method(one, budgets=budgets, model=model) for one in given]
    stock = [spec for spec in specs if spec.name == "stock"] or [MethodSpec("stock", {}, "stock")]
    specs = [stock[0], *(spec for spec in specs if spec.name != "stock")]
    labels = [spec.label for spec in specs]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise UsageError(f"methods appear twice: {', '.join(sorted(twice))}. Give each its own options or label.")
    return specs
