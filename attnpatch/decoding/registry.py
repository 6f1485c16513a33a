"""The companions by name, imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

from attnpatch.decoding.companion import Companion
from attnpatch.patching.errors import AttnPatchError, unknown_name
from attnpatch.patching.method import method_names

_TARGETS = {
    "guidance": "guidance:ImageGuidance",
    "icd": "icd:InstructionContrast",
    "sgrs": "sgrs:SaliencyRejection",
    "vcd": "vcd:VisualContrast",
}
NAMES = tuple(_TARGETS)


def names() -> tuple[str, ...]:
    """The name of every companion."""
    return NAMES


def companion_class(name: str) -> type[Companion]:
    """The class behind `name`. Raises AttnPatchError for an unknown name, with a did-you-mean, and for a method's."""
    if name not in _TARGETS:
        if name in method_names():
            raise AttnPatchError(
                f"{name!r} is no companion of decoding but a method: attnpatch.apply(model, {name!r}). Companions: "
                f"{', '.join(NAMES)}."
            )
        raise unknown_name("companion", name, NAMES)
    module, _, attribute = _TARGETS[name].partition(":")
    return getattr(importlib.import_module(f"attnpatch.decoding.{module}"), attribute)


def companions() -> dict[str, type[Companion]]:
    """All companions, by name."""
    return {name: companion_class(name) for name in NAMES}


def build(companion: str | Companion, **options: Any) -> Companion:
    """A companion from its name and options, or a finished one as it is.

    Raises AttnPatchError for an unknown name or option, for a value out of range, and for options beside a finished
    companion; TypeError for anything else.
    """
    if isinstance(companion, str):
        return companion_class(companion)(**options)
    if not isinstance(companion, Companion):
        raise TypeError(f"companion must be a name or a Companion, got {type(companion).__name__}: {companion!r}.")
    if options:
        raise AttnPatchError(f"options {sorted(options)} were given beside a finished {companion!r}.")
    return companion
