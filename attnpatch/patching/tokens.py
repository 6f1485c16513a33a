"""A tokenizer for methods that look at words; methods themselves import nothing of transformers."""

from __future__ import annotations

from typing import Any

from attnpatch.patching.errors import AttnPatchError


def load_tokenizer(source: str) -> Any:
    """The tokenizer in a folder or of a Hub id. Raises AttnPatchError, with the reason, where there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise AttnPatchError(f"the tokenizer of {source!r} cannot be loaded: {reason}") from error
