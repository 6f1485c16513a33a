"""From a row of a table to a conversation that ends with the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from attnpatch.training.data_settings import Columns
from attnpatch.training.problems import DataError
from attnpatch.training.templates import column, fill

CUT = " ... "  # stands where the middle of a context was


@dataclass(frozen=True)
class Conversation:
    """Turns (role, text), the last of them the assistant's answer, and a long text for the first user turn."""

    turns: tuple[tuple[str, str], ...]
    context: str = ""
    context_first: bool = True

    @property
    def answer(self) -> str:
        return self.turns[-1][1]

    def messages(self) -> list[dict[str, str]]:
        """The chat as templates take it, with the context in its place."""
        turns = list(self.turns)
        if self.context:
            index = next(i for i, (role, _) in enumerate(turns) if role == "user")
            parts = [self.context, turns[index][1]] if self.context_first else [turns[index][1], self.context]
            turns[index] = ("user", "\n\n".join(filter(None, parts)))
        return [{"role": role, "content": text} for role, text in turns]

    def shorten(self, characters: int) -> Conversation | None:
        """Without `characters` from the middle of the context, or None if it has no more than that.

        A chat without a context gives them from its longest user turn.
        """
        if self.context:
            shorter = _cut(self.context, characters)
            return None if shorter is None else replace(self, context=shorter)
        turns = list(self.turns)
        index = max((i for i, (role, _) in enumerate(turns) if role == "user"), key=lambda i: len(turns[i][1]))
        shorter = _cut(turns[index][1], characters)
        if shorter is None:
            return None
        turns[index] = ("user", shorter)
        return replace(self, turns=tuple(turns))


def _cut(text: str, characters: int) -> str | None:
    keep = len(text) - characters - len(CUT)
    if keep <= 0:
        return None
    return text[: keep - keep // 2] + CUT + text[len(text) - keep // 2 :]


def read_conversation(row: Mapping[str, Any], columns: Columns, context_first: bool = True) -> Conversation | None:
    """The conversation of one row; None if there is no question or no answer in it.

    Raises:
        EmptyField: a column is null.
        DataError: a column that does not exist, or a chat that is not one.
    """
    turns = _chat(column(row, columns.messages)) if columns.messages else []
    if columns.question or not columns.messages:
        turns.append(("user", fill(columns.question or "", row).strip()))
    if columns.system and not any(role == "system" for role, _ in turns):
        turns.insert(0, ("system", fill(columns.system, row)))
    if columns.answer:
        if turns[-1][0] == "assistant":
            raise DataError(f"column {columns.messages!r} ends with an answer already; leave columns.answer out.")
        turns.append(("assistant", fill(columns.answer, row).strip()))
    elif turns[-1][0] != "assistant":
        raise DataError(
            f"column {columns.messages!r} ends with the turn of {turns[-1][0]!r}; say where its answer is with "
            "columns.answer."
        )
    context = fill(columns.context, row, join=True).strip() if columns.context else ""
    asked = context or any(text.strip() for role, text in turns if role == "user")
    if not asked or not turns[-1][1].strip():
        return None
    return Conversation(tuple(turns), context, context_first)


def _chat(value: Any) -> list[tuple[str, str]]:
    good = isinstance(value, list) and value and all(isinstance(turn, Mapping) for turn in value)
    turns = [(turn.get("role"), turn.get("content")) for turn in value] if good else []
    if not good or not all(isinstance(role, str) and isinstance(text, str) for role, text in turns):
        raise DataError(f"messages must be a list of {{role, content}} texts, got {value!r:.100}.")
    if not any(role == "user" for role, _ in turns):
        raise DataError(f"messages have no user turn, only {', '.join(role for role, _ in turns)}.")
    return turns
