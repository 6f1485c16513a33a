"""Words without a content of their own, and which tokens of a text belong to the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

from attnpatch.patching.errors import AttnPatchError

# What a tagger would call determiners, pronouns, prepositions, conjunctions, auxiliaries, particles and interjections,
# as far as questions about pictures use them; and what an apostrophe leaves behind.
_LISTED = """
a an the this that these those some any no each every either neither both all such
i me my mine you your yours he him his she her hers it its we us our ours they them their theirs one ones
who whom whose which what when where why how there here
something anything nothing everything someone anyone everyone
of in on at by for with from to into onto over under above below between behind beside beneath near about around
across through during before after against along inside outside off out up down as than via per without within
and or but nor so yet if then else because while whether though although
be am is are was were been being do does did done doing have has had having
can could will would shall should may might must
not yes please ok okay let
s t d m ll re ve don doesn didn isn aren wasn weren hasn haven hadn won wouldn shouldn couldn
"""
STOP_WORDS = frozenset(_LISTED.split())
# Universal part-of-speech tags of content words.
CONTENT_TAGS = frozenset({"NOUN", "PROPN", "VERB", "ADJ", "ADV", "NUM"})
SPACY_MODEL = "en_core_web_sm"
_WORD = re.compile(r"[^\W_]+")

Tagger = Callable[[str], Iterator[tuple[int, int]]]  # where the content words of a text begin and end


def by_stop_words(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of every word of `text` that is no stop word.

    >>> [*by_stop_words("Is there a red circle?")]
    [(11, 14), (15, 21)]
    """
    for word in _WORD.finditer(text):
        if word.group().lower() not in STOP_WORDS:
            yield word.span()


def spacy_tagger() -> Tagger:
    """Content words as spaCy tags English. Raises AttnPatchError where it or its model is not installed."""
    try:
        # Not an import statement: spaCy is nobody's dependency here, not even an extra's.
        pipeline = import_module("spacy").load(SPACY_MODEL)
    except (ImportError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise AttnPatchError(
            f"content='spacy' needs spaCy and its English model, which cannot be loaded: {reason}. Install them with "
            f"`pip install spacy && python -m spacy download {SPACY_MODEL}`, or take content='stopword'."
        ) from error

    def tag(text: str) -> Iterator[tuple[int, int]]:
        for word in pipeline(text):
            if word.pos_ in CONTENT_TAGS:
                yield word.idx, word.idx + len(word.text)

    return tag


def content_tokens(pieces: Sequence[str], tagger: Tagger) -> list[bool]:
    """Which of the tokens of a text hold a piece of a content word; pieces: what each of them adds to the text."""
    owner = [number for number, piece in enumerate(pieces) for _ in piece]  # token of every character
    found = [False] * len(pieces)
    for begin, end in tagger("".join(pieces)):
        for number in owner[begin:end]:
            found[number] = True
    return found


class Pieces:
    """What tokens add to a text, spaces included; remembered, since prompts say the same things again and again."""

    ROOM = 20_000  # pairs of tokens, some 3 MB

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[int, ...], str] = {}

    def of(self, tokens: Sequence[int]) -> list[str]:
        """What every one of the tokens adds."""
        pairs = [tuple(tokens[max(number - 1, 0) : number + 1]) for number in range(len(tokens))]
        return [self._known[pair] if pair in self._known else self._learned(pair) for pair in pairs]

    def _learned(self, pair: tuple[int, ...]) -> str:
        """What the last token of the pair adds: alone it may lose the space in front of it."""
        if len(self._known) >= self.ROOM:
            self._known.clear()
        alone, piece = self._text(pair[-1:]), None
        if len(pair) == 2:
            before, both = self._text(pair[:1]), self._text(pair)
            # Half a character decodes to a mark that the other half takes away.
            piece = both[len(before) :] if both.startswith(before) else None
        self._known[pair] = alone if piece is None else piece
        return self._known[pair]

    def _text(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
