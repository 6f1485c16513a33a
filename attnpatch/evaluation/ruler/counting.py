"""cwe and fwe: the most common words of a list, the most frequent words of a coded text."""

from __future__ import annotations

import math
import string
from random import Random

from attnpatch.evaluation.ruler.material import Words
from attnpatch.evaluation.ruler.sample import Draft, Recipe, TooShort, drawn, numbered
from attnpatch.evaluation.ruler.templates import COMMON_WORDS, FREQUENT_WORDS

COMMON = 10
SHORT = 4096  # below this, cwe repeats its words less often
WORD_LETTERS = 6
TOKENS_PER_WORD = 50  # fwe has one word in its vocabulary for so many tokens
ALPHA = 2.0
ZETA = math.pi**2 / 6  # zeta(2)


def common_words(words: Words, length: int) -> Recipe:
    """Ten words occur more often than the others; one worked example comes first."""
    example_words, example_often, example_rarely = (40, 10, 3) if length >= SHORT else (20, 3, 1)
    often, rarely = (30, 3) if length >= SHORT else (6, 1)

    def draft(rng: Random, count: int) -> Draft:
        shown, known = _word_list(rng, words.all, example_words, example_often, example_rarely)
        asked, answers = _word_list(rng, words.all, count, often, rarely)
        example = COMMON_WORDS.text.format(context=shown) + COMMON_WORDS.prefix + " " + numbered(known)
        return Draft(f"{example}\n{COMMON_WORDS.text.format(context=asked)}", COMMON_WORDS.prefix, tuple(answers), ())

    if len(words.all) < example_words:
        raise ValueError(f"cwe needs at least {example_words} words, the word list has {len(words.all)}")
    return Recipe(draft, COMMON, len(words.all), ("words", "--word-list FILE"))


def _word_list(rng: Random, words: list[str], count: int, often: int, rarely: int) -> tuple[str, list[str]]:
    chosen = drawn(rng, words, count)
    common = chosen[:COMMON]
    everything = common * often + chosen[COMMON:] * rarely
    rng.shuffle(everything)
    return numbered(everything), common


def frequent_words(length: int, generated: int) -> Recipe:
    """Made-up words whose frequency falls with the square of their rank; the first rank is dots, noise."""
    vocabulary = (length - generated) // TOKENS_PER_WORD
    if vocabulary < 4:
        raise TooShort(4 * TOKENS_PER_WORD + generated)

    def draft(rng: Random, count: int) -> Draft:
        words = _made_up(rng, vocabulary)
        words[0] = "..."
        text = [word for rank, word in enumerate(words, 1) for _ in range(occurrences(count, rank))]
        rng.shuffle(text)
        return Draft(FREQUENT_WORDS.text.format(context=" ".join(text)), FREQUENT_WORDS.prefix, tuple(words[1:4]), ())

    return Recipe(draft, _least(vocabulary))


def occurrences(count: int, rank: int) -> int:
    """How often the word of a rank (from 1) occurs in a text of about `count` words."""
    return int(count * rank**-ALPHA / ZETA)


def _least(vocabulary: int) -> int:
    """From this count on, the third answer occurs, and more often than the word behind it."""
    step = 4**-ALPHA - (5**-ALPHA if vocabulary > 4 else 0)
    return math.ceil(ZETA / step)


def _made_up(rng: Random, count: int) -> list[str]:
    words: list[str] = []
    seen: set[str] = set()
    while len(words) < count:  # 26^6 words: a repetition is rare
        word = "".join(rng.choices(string.ascii_lowercase, k=WORD_LETTERS))
        if word not in seen:
            seen.add(word)
            words.append(word)
    return words
