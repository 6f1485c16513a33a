"""What the evaluation raises: mistakes of the caller, and reasons why one cell cannot run."""

from __future__ import annotations

from attnpatch.patching.errors import AttnPatchError


class UsageError(AttnPatchError):
    """Something in the request is wrong; the message names the value, what is allowed and the fix."""


class LoadingError(AttnPatchError):
    """A model or tokenizer cannot be loaded; the message says which and how to go on."""


class LostProcessError(AttnPatchError):
    """One of several processes is gone; what is finished is kept."""


class SkipCell(Exception):
    """This cell cannot run here: `reason` in one line, `fix` says what would make it run."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason, self.fix = reason, fix


def one_line(error: BaseException, limit: int = 300) -> str:
    """`Type: message` of an exception without line breaks."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
