"""From what a model wrote to yes, no or other, by the rule of each benchmark."""

from __future__ import annotations

import re

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination.questions import NO, OTHER, YES
from attnpatch.patching.errors import did_you_mean

OFFICIAL, LENIENT = "official", "lenient"
_WORD = re.compile(r"[a-z]+")


def pope_answer(text: str) -> str:
    """POPE's rule: "No", "not" or "no" among the words before the first full stop is no, all else is yes.

    So an empty answer, `NO`, `Not at all` and `1. No` are all read as yes.
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return NO if {"No", "not", "no"} & set(words) else YES


def lenient_answer(text: str) -> str:
    """The first yes, no or not in any spelling; without one, other."""
    word = next((word for word in _WORD.findall(text.lower()) if word in ("yes", "no", "not")), None)
    return OTHER if word is None else YES if word == "yes" else NO


def mme_answer(text: str) -> str:
    """MME's rule, as in lmms-eval: the whole answer, a single y or n, or yes, then no, in its first 4 characters."""
    text = text.lower().strip().replace(".", "")
    if text in (YES, NO):
        return text
    if len(text) == 1:
        return {"y": YES, "n": NO}.get(text, OTHER)
    return YES if YES in text[:4] else NO if NO in text[:4] else OTHER


def amber_answer(text: str) -> str:
    """The first word, whatever its case and the marks around it; other where it is neither."""
    word = next(iter(text.lower().split()), "").strip(".,;:!?\"'()*")
    return word if word in (YES, NO) else OTHER


def amber_exact(text: str) -> str:
    """AMBER's own rule: exactly `Yes` or `No`, other for anything else."""
    return {"Yes": YES, "No": NO}.get(text, OTHER)


def parser(name: str, known: dict):
    """The rule called `name`. Raises UsageError with the nearest name."""
    if name not in known:
        raise UsageError(f"unknown parse {name!r}.{did_you_mean(str(name), known)} Allowed: {', '.join(known)}.")
    return known[name]
