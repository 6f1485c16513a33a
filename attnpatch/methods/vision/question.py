"""Where the question of a prompt ends: what a chat template puts behind it, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attnpatch.patching.errors import AttnPatchError

_MARKS = ("Zebra", "Quiz7")  # two questions that end differently: what both prompts end with is the template's


def template_tails(renderer: Any, tokenizer: Any) -> list[list[int]]:
    """The tokens that the chat template of `renderer` puts behind a question, with and without an answer's opening.

    Longest first; none where there is no template. Raises AttnPatchError for one that takes no plain question.
    """
    if not getattr(renderer, "chat_template", None):
        return []
    found = []
    for opening in (True, False):
        one, two = (_behind(renderer, mark, opening) for mark in _MARKS)
        found.append(_common_end(tokenizer, one, two))
    return sorted(found, key=len, reverse=True)


def text_tail(tokenizer: Any, tail: str) -> list[int]:
    """The tokens of `tail` at the end of a prompt."""
    return _common_end(tokenizer, *(mark + tail for mark in _MARKS))


def _behind(renderer: Any, mark: str, opening: bool) -> str:
    """The end of the prompt for the question `mark`, from `mark` on."""
    reason = "it leaves the question out"
    # Templates of vision-language models take a list of parts, some take nothing but text.
    for content in ([{"type": "text", "text": mark}], mark):
        chat = [{"role": "user", "content": content}]
        try:
            text = renderer.apply_chat_template(chat, tokenize=False, add_generation_prompt=opening)
        except Exception as error:  # noqa: BLE001 - a template raises whatever its author chose
            reason = str(error).strip().partition("\n")[0]
            continue
        if mark in text:
            return text[text.rfind(mark) :]
    raise AttnPatchError(
        f"where the question of a prompt ends cannot be read from the chat template: {reason}. Say what stands behind "
        "it: tail=' ASSISTANT:', or tail='' for nothing."
    )


def _common_end(tokenizer: Any, *texts: str) -> list[int]:
    """The tokens that both texts end with, but for the first: it is of the mark, which a tokenizer may not know."""
    one, two = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
    count = 0
    while count < min(len(one), len(two)) - 1 and one[-1 - count] == two[-1 - count]:
        count += 1
    return list(one[len(one) - count :])


def without_tail(tokens: Sequence[int], tails: Sequence[Sequence[int]]) -> int:
    """How many of a prompt's `tokens` are left without the first of `tails` that it ends with.

    The first token of a tail may have been merged with what is before it; then the rest is enough.
    """
    for tail in tails:
        for end in (tail, tail[1:]):
            if end and list(tokens[-len(end) :]) == list(end):
                return len(tokens) - len(end)
    return len(tokens)
