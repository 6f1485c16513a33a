"""Which objects a text names: a table of words, longest phrases first, every mention counted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination.words import singular, words

OWN_TABLE = Path(__file__).parent / "coco_objects.txt"
ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
_AGES = ("baby", "adult")
# What these phrases name is their value, whatever a table says about the single words in them.
PHRASES = {
    **{f"{age} {animal}": animal for age in _AGES for animal in (*ANIMALS, "animal", "cub")},
    "passenger jet": "jet",
    "passenger train": "train",
    "bow tie": "tie",
    "toilet seat": "toilet",
}


class Objects:
    """A table of objects.

    lines: one per object, its name first, then other words for it; a word in two lines stands for the last of them,
    as in CHAIR's own script. A plural stands for its singular; of phrases that begin at one word the longest counts.

    Raises:
        ValueError: an empty table.
    """

    def __init__(self, lines: Iterable[list[str]]) -> None:
        names: dict[str, str] = {}
        for line in lines:
            names |= dict.fromkeys(map(str.lower, line), line[0].lower())
        if not names:
            raise ValueError("it names no object")
        self.names = tuple(dict.fromkeys(names.values()))
        self._vocabulary = {part for phrase in (*names, *PHRASES) for part in words(phrase)}
        known = {tuple(self._singular(phrase)): name for phrase, name in names.items()}
        for phrase, word in PHRASES.items():
            # None: the phrase is nothing in this table, and its parts are not counted either.
            known[tuple(self._singular(phrase))] = known.get((word,))
        self._known, self._longest = known, max(map(len, known))

    def mentions(self, text: str) -> list[str]:
        """Names of all objects that the text mentions, in order, repeats included."""
        parts = self._singular(text)
        if "toilet" in parts:  # "the seat of the toilet" is no chair
            parts = [part for part in parts if part != "seat"]
        found, place = [], 0
        while place < len(parts):
            for length in range(min(self._longest, len(parts) - place), 0, -1):
                phrase = tuple(parts[place : place + length])
                if phrase in self._known:
                    found.append(self._known[phrase])
                    place += length
                    break
            else:
                place += 1
        return [name for name in found if name is not None]

    def name(self, word: str) -> str | None:
        """The object that a single word or phrase stands for."""
        return self._known.get(tuple(self._singular(word)))

    def _singular(self, text: str) -> list[str]:
        return [singular(word, self._vocabulary) for word in words(text)]


def read_objects(path: str | Path) -> tuple[Objects, str]:
    """A table from a file, and the sha256 of that file.

    Lines are `name, other word, ...`; empty ones and those that begin with # are left out.

    Raises:
        UsageError: the file cannot be read, or is no table.
    """
    try:
        raw = Path(path).read_bytes()
        lines = [line.strip() for line in raw.decode("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the table of objects {str(path)!r} cannot be read as UTF-8 text: {error}") from error
    rows = [[word.strip() for word in line.split(",") if word.strip()] for line in lines if line[:1] not in ("", "#")]
    try:
        return Objects(row for row in rows if row), hashlib.sha256(raw).hexdigest()
    except ValueError as error:
        raise UsageError(
            f"the table of objects {str(path)!r}: {error}. Write one object a line: its name, then other words for "
            "it, separated by commas."
        ) from error


@cache
def own_objects() -> tuple[Objects, str]:
    """The table that ships with attnpatch, and its sha256."""
    return read_objects(OWN_TABLE)
