"""Templates over the columns of a row: `Title: {title}`, `{paragraphs[text]}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from typing import Any

from attnpatch.patching.errors import did_you_mean
from attnpatch.training.problems import DataError

_STEP = re.compile(r"[^.\[\]]+")


class EmptyField(Exception):
    """A column that a template needs is null; `column` says which."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def parse(template: str) -> list[tuple[str, list[str]]]:
    """`[(text before, path of a field)]`; the path is empty after the last text.

    Raises:
        ValueError: braces that do not match, a field without a name, a format or conversion.
    """
    parts = []
    try:
        for text, field, form, conversion in Formatter().parse(template):
            path = _STEP.findall(field or "")
            if field is not None and not path:
                raise ValueError("a field has no name; write {column}")
            if form or conversion:
                raise ValueError(f"field {field!r} has a format, which is not supported; write {{column}}")
            parts.append((text, path))
    except ValueError as error:
        raise ValueError(f"template {template!r} cannot be read: {error}. A brace is written {{{{ or }}}}") from None
    return parts


def fill(template: str, row: Mapping[str, Any], *, join: bool = False) -> str:
    """The text of a template for one row. A list is joined by blank lines, or its first element is taken.

    Raises:
        EmptyField: a column is null.
        DataError: a column or key that does not exist, or a struct where text is wanted.
    """
    return "".join(text + (_text(row, path, join) if path else "") for text, path in parse(template))


def column(row: Mapping[str, Any], name: str) -> Any:
    """One column of a row. Raises EmptyField if it is null, DataError if it does not exist."""
    return _step(row, name, "column")


def _text(row: Mapping[str, Any], path: list[str], join: bool) -> str:
    value: Any = column(row, path[0])
    for key in path[1:]:
        value = _step(value, key, "key")
    return _as_text(value, path[0], join)


def _step(value: Any, key: str, what: str) -> Any:
    if isinstance(value, list):
        if not key.isdigit():
            return [_step(one, key, what) for one in value]
        if int(key) >= len(value):
            raise EmptyField(key)
        value = value[int(key)]
    elif isinstance(value, Mapping):
        if key not in value:
            raise DataError(f"no {what} {key!r}.{did_you_mean(key, value)} Allowed: {', '.join(value)}.")
        value = value[key]
    else:
        raise DataError(f"no key {key!r} in {value!r:.60}, which is {type(value).__name__}.")
    if value is None:
        raise EmptyField(key)
    return value


def _as_text(value: Any, name: str, join: bool) -> str:
    if isinstance(value, list):
        if not value:
            raise EmptyField(name)
        texts = [_as_text(one, name, join) for one in (value if join else value[:1])]
        return "\n\n".join(texts)
    if isinstance(value, Mapping):
        raise DataError(f"column {name!r} holds a struct; pick a key: {', '.join(f'{{{name}[{k}]}}' for k in value)}.")
    if value is None:
        raise EmptyField(name)
    return str(value)
