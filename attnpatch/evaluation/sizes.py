"""Sizes as people write them: `4k`, `512`, `length/8`, `budget/2`."""

from __future__ import annotations

import re

from attnpatch.evaluation.errors import UsageError

_TOKENS = re.compile(r"(\d+)(k?)", re.IGNORECASE)
_SHARE = re.compile(r"(length|budget)(?:/(\d+))?")

Size = int | str


def parse_tokens(value: Size, what: str = "length") -> int:
    """Tokens from `512`, `"512"` or `"4k"` (k = 1024).

    Raises:
        UsageError: anything else, or less than one token.
    """
    match = _TOKENS.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    tokens = int(match[1]) * (1024 if match[2] else 1) if match else 0
    if tokens < 1:
        raise UsageError(f"{what} {value!r} is not a number of tokens; write for example 512 or 4k.")
    return tokens


def is_share(value: object) -> bool:
    """True for text such as `length/8` or `budget/2`."""
    return isinstance(value, str) and _SHARE.fullmatch(value.strip()) is not None


def check_budget(value: Size) -> Size:
    """A budget as it stands in a request: tokens, or a share of the length such as `length/8`.

    Raises:
        UsageError: anything else.
    """
    if is_share(value):
        match = _SHARE.fullmatch(str(value).strip())
        if match[1] == "length" and int(match[2] or 1) > 0:
            return str(value).strip()
    elif _TOKENS.fullmatch(str(value).strip()) and not isinstance(value, bool):
        return parse_tokens(value, "budget")
    raise UsageError(
        f"budget {value!r} is not known; write mean visible keys per query (64) or a share of the length (length/8)."
    )


def resolve_size(value: Size, *, length: int, budget: int | None = None) -> int:
    """Tokens behind a size, at `length` tokens and a budget of `budget` mean keys; at least 1.

    Raises:
        UsageError: `budget/2` where there is no budget.
    """
    if not is_share(value):
        return parse_tokens(value, "size")
    match = _SHARE.fullmatch(str(value).strip())
    whole = length if match[1] == "length" else budget
    if whole is None:
        raise UsageError(f"{value!r} needs a budget; give --budgets, for example --budgets length/8.")
    return max(1, whole // max(1, int(match[2] or 1)))
