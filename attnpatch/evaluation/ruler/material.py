"""The words and texts that RULER's prompts are made of, each read once and only when a task asks for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

from attnpatch.evaluation.errors import SkipCell, UsageError
from attnpatch.evaluation.ruler.datasets import Questions, hub_rows, read_hotpot, read_json, read_squad
from attnpatch.evaluation.tasks.options import TaskOptions

ESSAYS = "baber/paul_graham_essays"


@dataclass(frozen=True)
class Words:
    """`all` words, sorted; adjectives and nouns for made-up names."""

    all: list[str]
    adjectives: list[str]
    nouns: list[str]

    def pair(self, rng: Random) -> str:
        """`adjective-noun`."""
        return f"{rng.choice(self.adjectives)}-{rng.choice(self.nouns)}"


class Material:
    """What the options point at.

    Raises, from each property:
        SkipCell: it is not given, or a package for it is not installed.
        UsageError: it is given and cannot be read.
    """

    def __init__(self, options: TaskOptions) -> None:
        self.options = options

    @cached_property
    def words(self) -> Words:
        """The user's words, or the nouns, adjectives and verbs of wonderwords."""
        path = self.options.word_list
        if path is None:
            return _wonderwords()
        words = sorted({line.strip() for line in _text(path, "--word-list").splitlines()} - {""})
        if len(words) < 2:
            raise UsageError(f"--word-list {path!r} has fewer than two words; write one a line.")
        return Words(words, words, words)

    @cached_property
    def essay(self) -> list[str]:
        """The haystack's words."""
        path = self.options.haystack or self.options.text_file
        if path is None:
            raise SkipCell(
                "its haystack is running text, and none is given",
                f"pass --haystack FILE (or --text-file FILE): any long text, or the essays in {ESSAYS}",
            )
        flag = "--haystack" if self.options.haystack else "--text-file"
        if Path(path).is_file():
            words = _text(path, flag).split()
        else:
            words = " ".join(str(row.get("text", "")) for row in hub_rows(path, flag, ("train", "test"))).split()
        if not words:
            raise UsageError(f"{flag} {path!r} holds no text.")
        return words

    @cached_property
    def squad(self) -> Questions:
        path = self.options.squad
        if path is None:
            raise SkipCell(
                "SQuAD is not given", "pass --squad FILE (dev-v2.0.json) or a Hub data set, rajpurkar/squad_v2"
            )
        found = read_json(path, "--squad") if Path(path).is_file() else hub_rows(path, "--squad")
        return read_squad(found, path)

    @cached_property
    def hotpot(self) -> Questions:
        path = self.options.hotpot
        if path is None:
            raise SkipCell(
                "HotpotQA is not given",
                "pass --hotpot FILE (hotpot_dev_distractor_v1.json) or a Hub data set, hotpotqa/hotpot_qa",
            )
        found = (
            read_json(path, "--hotpot") if Path(path).is_file() else hub_rows(path, "--hotpot", config="distractor")
        )
        return read_hotpot(found, path)

    def digest(self, name: str | None) -> str:
        """Hash of one kind of material by its content; empty for none."""
        if name is None:
            return ""
        found = getattr(self, name)
        parts = found.all if isinstance(found, Words) else found.documents if isinstance(found, Questions) else found
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _text(path: str, flag: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{flag} {path!r} cannot be read as UTF-8 text: {error}") from error


def _wonderwords() -> Words:
    try:
        from wonderwords import RandomWord
    except ImportError as error:
        raise SkipCell(
            "its words come from wonderwords, which is not installed",
            'pip install "attnpatch[eval]", or pass --word-list FILE',
        ) from error
    stock = RandomWord()
    nouns, adjectives, verbs = (
        sorted(set(stock.filter(include_categories=[kind]))) for kind in ("noun", "adjective", "verb")
    )
    return Words(sorted({*nouns, *adjectives, *verbs}), adjectives, nouns)
