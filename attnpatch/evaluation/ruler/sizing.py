"""How many items fill a length: bisection on the count, every try tokenised in full, never without an end."""

from __future__ import annotations

from collections.abc import Callable

_STRAIGHT = 4  # so many tries follow the straight line through the last one, then the bracket is doubled or halved
_ROUNDS = 64
_ITEMS_PER_TOKEN = 4  # items are words or lines: a haystack of more of them than this is text that nobody counts


def largest_count(tokens: Callable[[int], int], budget: int, least: int, most: int | None, guess: int) -> int | None:
    """The count that fits while one more does not: `tokens(count) <= budget < tokens(count + 1)`.

    tokens: need not grow strictly. most: no count above it, None for no bound. guess: where to look first.
    Returns None if `least` does not fit.

    Raises:
        ValueError: `tokens` does not grow with the count.
    """
    base = tokens(least)
    if base > budget:
        return None
    end = least + _ITEMS_PER_TOKEN * budget
    low, high = least, None if most is None else most + 1  # low fits, high does not
    count = guess
    for tried in range(_ROUNDS):
        if high is not None and high - low <= 1:
            return low
        if low >= end:
            break
        count = max(low + 1, min(count, end if high is None else high - 1))
        used = tokens(count)
        if used <= budget:
            low = count
        else:
            high = count
        if tried < _STRAIGHT:
            count += int((budget - used) * (count - least) / max(1, used - base))
        elif high is None:
            count = low + 2 ** (tried - _STRAIGHT + 1)
        else:
            count = (low + high) // 2
    raise ValueError("the prompt does not grow with its haystack: the tokenizer drops the text")


def smallest_length(need: Callable[[int], int], length: int) -> int:
    """The first length from `length` up that holds what it needs; `need(length)` may itself depend on the length."""
    for _ in range(_ROUNDS):
        needed = need(length)
        if needed <= length:
            return length
        length = needed
    return length
