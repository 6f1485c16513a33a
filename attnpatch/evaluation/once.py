"""Build once what many cells share; a reason to skip it is remembered like the thing itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from attnpatch.evaluation.errors import SkipCell


def once(known: dict[Hashable, Any], key: Hashable, build: Callable[[], Any]) -> Any:
    """`build()` at most once per `key` of `known`; a SkipCell that it raised is raised again at every later call."""
    if key not in known:
        try:
            known[key] = build()
        except SkipCell as reason:
            known[key] = reason
    found = known[key]
    if isinstance(found, SkipCell):
        raise found
    return found
