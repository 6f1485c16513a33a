"""Decoding companions: what changes a model's logits while it writes, beside a patch of its attention or without one.

They live in `attnpatch.decoding`. Here is all that the evaluation knows of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch

MODULE = "attnpatch.decoding"
_in_charge: ContextVar[Any] = ContextVar("companion", default=None)


@dataclass(frozen=True)
class CompanionSpec:
    """A companion by name, with its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        """The companion. Raises AttnPatchError for an unknown name or option."""
        return _module().build(self.name, **self.options)

    @property
    def one_row(self) -> bool:
        """True if it takes one prompt at a time."""
        return bool(self.build().one_row)

    def to_dict(self) -> dict[str, Any]:
        """Name and full options, as a cell's key holds them."""
        return {"name": self.name, "options": self.build().config.model_dump(mode="json")}


def names() -> tuple[str, ...]:
    """The companions there are."""
    return tuple(_module().names()) if find_spec(MODULE) is not None else ()


@contextmanager
def in_charge(companion: CompanionSpec | None) -> Iterator[None]:
    """Whatever is generated inside is generated with this companion; None: with none."""
    token = _in_charge.set(None if companion is None else companion.build())
    try:
        yield
    finally:
        _in_charge.reset(token)


def settings(model: torch.nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    """What one `generate` of these inputs is to be given: nothing without a companion."""
    companion = _in_charge.get()
    return {} if companion is None else companion.settings(model, inputs)


def _module() -> Any:
    return importlib.import_module(MODULE)
