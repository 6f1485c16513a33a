"""The methods of a run: can they be built, is what they read here, and at which layers do they act."""

from __future__ import annotations

from attnpatch.evaluation.checking.finding import MISSING, OK, UNKNOWN, Finding
from attnpatch.evaluation.checking.model import Model
from attnpatch.evaluation.contents import contents
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.methods import MethodSpec
from attnpatch.evaluation.sizes import resolve_size
from attnpatch.evaluation.suites import Suite
from attnpatch.patching import AttnPatchError
from attnpatch.patching.apply import introduce
from attnpatch.patching.method import build_method

PART = "method"


def check_methods(model: Model, suite: Suite) -> list[Finding]:
    """One finding per method."""
    return [_check(spec, model, suite) for spec in suite.method_specs()]


def _check(spec: MethodSpec, model: Model, suite: Suite) -> Finding:
    length = min(suite.lengths)
    budget = resolve_size(suite.budgets[0], length=length) if suite.budgets else None
    config = spec.config(length=length, budget=budget)
    try:
        read = contents(spec.applied, config)
        method = build_method((spec.applied, config))
        if spec.companion is not None:
            spec.companion.build()
        saved = getattr(method, "saved", None)
        if saved is not None and model.source is not None:
            saved.require(model.source.config.get_text_config(decoder=True))
    except (UsageError, AttnPatchError) as error:
        fix = "give another path, or train it: `attnpatch train`"
        return Finding(
            PART, spec.label, MISSING, str(error), f"`attnpatch train {spec.recipe}`" if spec.recipe else fix
        )
    told = "".join(f"; {name} read" for name in read)
    if not model.sites:
        return Finding(PART, spec.label, UNKNOWN, f"its layers cannot be told without the model{told}")
    try:
        introduce([method], model.bare, model.text)
    except AttnPatchError as error:
        return Finding(PART, spec.label, MISSING, str(error), "do what the reason says, or leave the method out")
    refused = [reason for site in model.sites if (reason := method.check(site)) is not None]
    there_are = len(model.sites)
    if len(refused) == there_are:
        return Finding(PART, spec.label, MISSING, f"applies to no layer: {refused[0]}", "choose another method")
    rest = f", not to the others: {refused[0]}" if refused else ""
    return Finding(PART, spec.label, OK, f"applies to {there_are - len(refused)} of {there_are} layers{rest}{told}")
