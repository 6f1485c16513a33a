"""Perplexity of running text: seeded stories whose surnames need long range, or a file of the user's."""

from __future__ import annotations

from pathlib import Path
from random import Random

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.tasks.language import Language
from attnpatch.evaluation.tasks.prose import predicate, sentence, story

SCORED = 1024  # perplexity is taken over at most this many tokens at the end, with everything before as context


def perplexity(rng: Random, language: Language, length: int, *, index: int, corpus: str | None = None):
    """Running text; the last tokens (at most 1024, at most half) are scored with all others as context."""
    start = language.start
    if corpus is not None:
        ids = [*start, *_slice_of(language, corpus, length - len(start), index)]
        long_range = []
    else:
        ids, long_range = _story(rng, language, length)
    answers = list(range(length - min(SCORED, length // 2), length))
    slices = {"long_range": [i for i, p in enumerate(answers) if p in long_range]}
    return ids, answers, {"slices": slices} if slices["long_range"] else {}


def _story(rng: Random, language: Language, length: int) -> tuple[list[int], set[int]]:
    if not language.speaks_english:
        parts = language.filler(rng, length - len(language.start))
        return [*language.start, *(token for part in parts for token in part)], set()
    first, last = story(rng, max(2, min(12, length // 100)))
    ids, names, met = list(language.start), set(), set()
    while len(ids) < length:
        if rng.random() < 0.3:
            who = rng.randrange(len(first))
            ids += language.encode(f" {first[who]}")
            surname = language.encode(f" {last[who]}")
            if who in met:
                names.update(range(len(ids), len(ids) + len(surname)))
            met.add(who)
            ids += [*surname, *language.encode(f" {predicate(rng)}")]
        else:
            ids += language.encode(f" {sentence(rng)}")
    return ids[:length], {p for p in names if p < length}


def read_text(path: str | Path) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--text-file {str(path)!r} cannot be read as UTF-8 text: {error}") from error
    if not text.strip():
        raise UsageError(f"--text-file {str(path)!r} is empty.")
    return text


def _slice_of(language: Language, corpus: str, tokens: int, index: int) -> list[int]:
    """Slice `index` of the corpus: consecutive, without overlap."""
    ids = language.encode_once(corpus)
    if (index + 1) * tokens > len(ids):
        raise ValueError(
            f"the text file has {len(ids)} tokens, enough for {len(ids) // tokens} documents of {tokens}; "
            "give a longer file or a smaller --limit"
        )
    return ids[index * tokens : (index + 1) * tokens]
