"""The words of the sandbox language and the word-level tokenizer made from them (one word, one token)."""

from __future__ import annotations

from functools import lru_cache

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNK)
MARKS = (".", ";", "key", "ask", "let", "copy", "passkey", "plus", "minus", "is", "count", "says", "yes")
NUMBERS = tuple(str(n) for n in range(100))


def _made_up(onsets: str, vowels: str, codas: str, count: int) -> tuple[str, ...]:
    """`count` pronounceable words, spread evenly over all onset-vowel-coda combinations."""
    words = [a + v + b for a in onsets for v in vowels for b in codas]
    step = len(words) / count
    return tuple(words[int(i * step)] for i in range(count))


KEYS = _made_up("bdfgklmpr", "aeiou", "xzkv", 96)
FIRST_NAMES = tuple(word + "a" for word in _made_up("jlmnrst", "aeio", "lnrv", 48))
LAST_NAMES = tuple(word + "en" for word in _made_up("bdghkvw", "aeou", "lrst", 48))

ADJECTIVES = ("small", "big", "old", "young", "quiet", "loud", "brown", "grey")
ANIMALS = ("dog", "cat", "cow", "duck", "owl", "crow", "sheep", "frog")
SOUNDS = ("woof", "meow", "moo", "quack", "hoot", "caw", "baa", "croak")
VERBS = ("sees", "finds", "likes", "takes", "paints", "hides")
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
THINGS = ("ball", "box", "lamp", "book", "chair", "door", "cup", "bell")
PLACES = ("garden", "kitchen", "tower", "market", "forest", "harbour", "school", "field")
GRAMMAR = ("the", "a", "in", "at", "and", *ADJECTIVES, *ANIMALS, *SOUNDS, *VERBS, *COLOURS, *THINGS, *PLACES)

WORDS = (*SPECIAL, *MARKS, *NUMBERS, *KEYS, *FIRST_NAMES, *LAST_NAMES, *GRAMMAR)
ID = {word: index for index, word in enumerate(WORDS)}


def ids(text: str) -> list[int]:
    """Token ids of space-separated words."""
    return [ID[word] for word in text.split()]


def text(tokens: list[int]) -> str:
    """The words of token ids, space-separated."""
    return " ".join(WORDS[token] for token in tokens)


@lru_cache(maxsize=1)
def build_tokenizer():
    """A `PreTrainedTokenizerFast` over `WORDS`; it puts `<bos>` in front, as the training rows have it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(dict(ID), unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, ID[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
