"""lm-eval is an extra: one sentence where it is missing, quiet where it is not, and no foreign code unasked."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from attnpatch.evaluation.errors import SkipCell

CONSENT = "HF_ALLOW_CODE_EVAL"  # the variable that the metric behind such tasks asks for too
INSTALL = 'pip install "attnpatch[eval]"'


def has_lm_eval() -> bool:
    """True if lm-eval is installed; does not import it."""
    return find_spec("lm_eval") is not None


def require_lm_eval() -> None:
    """Raise ImportError with the fix if lm-eval is not installed."""
    if not has_lm_eval():
        raise ImportError(f"lm-eval is not installed. Install it with: {INSTALL}")


def require_consent(task: str) -> None:
    """Raise SkipCell for a task that runs what the model writes, unless the user said that it may."""
    if os.environ.get(CONSENT) != "1":
        raise SkipCell(
            f"lm-eval task {task!r} runs code that the model writes", f"in a container, set {CONSENT}=1 to let it"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Only errors of lm-eval's logger inside: it warns about every model that is in memory already."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
