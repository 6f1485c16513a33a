"""The errors attnpatch raises, and the did-you-mean that goes with unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AttnPatchError(ValueError):
    """Something the user can fix: the message says what was given, what is allowed and how to go on."""


class UnsupportedModelError(AttnPatchError):
    """The model, or this layer of it, cannot be patched; the message names the reason."""


class UnsupportedCallError(AttnPatchError):
    """The patched model was run in a way the method cannot answer correctly, so it refused to run."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` when something in `allowed` is close to `word`, else an empty string."""
    close = difflib.get_close_matches(str(word), list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def unknown_name(what: str, word: str, allowed: Iterable[str], otherwise: str = "") -> AttnPatchError:
    """The error for a name that is not in `allowed`; `otherwise` is added where nothing in it is close."""
    names = sorted(allowed)
    close = did_you_mean(word, names)
    more = f" {otherwise}" if otherwise and not close else ""
    return AttnPatchError(f"unknown {what} {word!r}.{close} Allowed: {', '.join(names) or '(none)'}.{more}")
