"""What a tokenizer says about the tokens of a prompt: which are the question, and which of those carry content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

from attnpatch.methods.vision.content_words import Pieces, by_stop_words, content_tokens, spacy_tagger
from attnpatch.methods.vision.question import template_tails, text_tail, without_tail
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.tokens import load_tokenizer

if TYPE_CHECKING:
    from attnpatch.patching.images import ImageHost

Content = Literal["stopword", "spacy", "all"]


class GivenTokenizer:
    """A tokenizer or processor that a method was given, in a config: short to print, and a name where it is saved."""

    def __init__(self, value: Any) -> None:
        self.value = value

    @property
    def name(self) -> str | None:
        inner = getattr(self.value, "tokenizer", self.value)
        return getattr(inner, "name_or_path", None) or None

    def __repr__(self) -> str:
        return f"<{type(self.value).__name__} {self.name or 'without a name'}>"


def _given(value: Any) -> Any:
    if value is None or isinstance(value, (str, GivenTokenizer)):
        return value
    if not callable(getattr(getattr(value, "tokenizer", value), "decode", None)):
        raise ValueError("give a tokenizer or processor of transformers, a folder, or a Hub id")
    return GivenTokenizer(value)


TokenizerOption = Annotated[
    str | GivenTokenizer | None,
    BeforeValidator(_given),
    PlainSerializer(
        lambda value: value.name if isinstance(value, GivenTokenizer) else value,
        return_type=str | None,
        when_used="json",
    ),
]


class Vocabulary:
    """What the tokens of a model's prompts mean.

    special: tokens that are no text. Without a tokenizer nothing else is known: all tokens carry content, and nothing
    is taken for the end of a chat template.
    """

    def __init__(
        self, special: set[int], tokenizer: Any = None, content: Content = "all", tail: str | None = None
    ) -> None:
        self.special = set(special)
        self._tails: list[list[int]] = []
        self._tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor holds one
        self._pieces = Pieces(self._tokenizer)
        if self._tokenizer is not None:
            added = getattr(self._tokenizer, "added_tokens_decoder", {})
            self.special |= {token for token, entry in added.items() if entry.special}
            self.special |= set(self._tokenizer.all_special_ids)
            self._tails = (
                template_tails(tokenizer, self._tokenizer) if tail is None else [text_tail(self._tokenizer, tail)]
            )
        self._tagger = {"stopword": lambda: by_stop_words, "spacy": spacy_tagger, "all": lambda: None}[content]()

    @property
    def reads_tokens(self) -> bool:
        return self._tokenizer is not None

    def question(self, prompt: Sequence[int], first: int) -> list[int]:
        """Where the question is among the tokens of a prompt, from index `first` on."""
        stop = without_tail(prompt, self._tails)
        return [index for index in range(first, stop) if prompt[index] not in self.special]

    def content(self, question: Sequence[int]) -> list[bool]:
        """Which tokens of a question carry content; all of them where none does."""
        if self._tagger is None:
            return [True] * len(question)
        found = content_tokens(self._pieces.of(question), self._tagger)
        return found if any(found) else [True] * len(question)


def find_tokenizer(option: str | GivenTokenizer | None, model_name: str, method: str) -> Any:
    """The tokenizer that the option names, or the model's own. Raises AttnPatchError where it cannot be had."""
    if isinstance(option, GivenTokenizer):
        return option.value
    fix = (
        "Pass tokenizer=processor (or a tokenizer, a folder, a Hub id), or take content='all', which needs none and "
        "counts every token of the question."
    )
    if not (option or model_name):
        raise AttnPatchError(
            f"{method} reads words of the question, and this model has no name to load its tokenizer by. {fix}"
        )
    try:
        return load_tokenizer(option or model_name)
    except AttnPatchError as error:
        raise AttnPatchError(f"{method} reads words of the question, and {error}. {fix}") from error


def require_fit(tokenizer: Any, host: ImageHost, method: str) -> None:
    """Raises AttnPatchError for a tokenizer, or processor, that is certainly another model's.

    It has more tokens than the model has embeddings for, or marks images by other ones. Tokens that were added to it
    do not count: a model may never have been given rows for them. One with fewer tokens proves nothing: embeddings
    are padded, and the language model's own knows no image token.
    """
    tokens = getattr(getattr(tokenizer, "tokenizer", tokenizer), "vocab_size", None)
    rows = getattr(host.module.get_input_embeddings(), "num_embeddings", None)
    marks, found = _image_tokens(tokenizer), None
    if isinstance(tokens, int) and rows is not None:
        rows = max(rows, getattr(host.text_config, "vocab_size", None) or 0)  # the table may be one shard of several
        found = (f"has {tokens} tokens", f"embeddings for {rows}") if tokens > rows else None
    if marks and not marks & {*host.tokens, *host.wrappers}:
        found = found or (f"marks images by {_listed(marks)}", f"by {_listed(host.tokens)}")
    if found:
        raise AttnPatchError(
            f"{method}: the tokenizer {GivenTokenizer(tokenizer)!r} {found[0]} and {type(host.module).__name__} "
            f"{found[1]}, so it is another model's and would read other words than the prompt's. Pass this model's "
            "own, tokenizer=processor, or leave tokenizer out: it is then loaded by the model's name."
        )


def _image_tokens(processor: Any) -> set[int]:
    """Tokens by which a processor, or tokenizer, says that it marks images; some processors name the begin of one."""
    inner = getattr(processor, "tokenizer", processor)
    named = [getattr(one, "image_token_id", None) for one in (processor, inner)]
    if inner is not processor:
        named += getattr(processor, "image_token_ids", [])
    return {token for token in named if isinstance(token, int)}


def _listed(tokens: Iterable[int]) -> str:
    return f"token {', '.join(map(str, sorted(tokens)))}"


def special_tokens(config: Any) -> set[int]:
    """Tokens that a text model's config names as special."""
    named = (getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad"))
    return {token for value in named for token in (value if isinstance(value, (list, tuple)) else [value])} - {None}
