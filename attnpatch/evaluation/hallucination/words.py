"""Words of a caption, and which known word a plural stands for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

_WORD = re.compile(r"[a-z0-9]+")
_POSSESSIVE = re.compile(r"['’]s?\b")
IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose", "oxen": "ox",
    "calves": "calf", "policemen": "policeman", "gentlemen": "gentleman", "persons": "person",
}  # fmt: skip


def words(text: str) -> list[str]:
    """The words in lower case; hyphens part words, a possessive 's belongs to none."""
    return _WORD.findall(_POSSESSIVE.sub("", text.lower()))


def singular(word: str, known: Collection[str]) -> str:
    """The known word that `word` is, or is the plural of; `word` itself if there is none."""
    return next((one for one in _candidates(word) if one in known), word)


def _candidates(word: str) -> Iterator[str]:
    yield word
    if word in IRREGULAR:
        yield IRREGULAR[word]
    if word.endswith("s"):
        yield word[:-1]
        for ending, instead in (("ies", "y"), ("ves", "fe"), ("ves", "f"), ("es", "")):
            if word.endswith(ending):
                yield word[: -len(ending)] + instead
