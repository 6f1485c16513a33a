"""Tiny random models and three kinds of tokenizers: the sandbox's words, English words, bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attnpatch.evaluation import evaluate
from attnpatch.evaluation.tasks import prose
from attnpatch.sandbox.text.model import build_model
from attnpatch.sandbox.text.vocabulary import build_tokenizer
from tests.zoo import tiny_qwen3


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sandbox_model():
    """A small random model in the sandbox language; tests leave it as they found it."""
    return build_model(layers=2, hidden=64).eval()


@pytest.fixture(scope="session")
def sandbox_tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, sandbox_model, sandbox_tokenizer) -> Path:
    """The small model as a folder."""
    folder = tmp_path_factory.mktemp("checkpoint")
    sandbox_model.save_pretrained(folder)
    sandbox_tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte: no token is a word."""
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for special in ("<|bos|>", "<|eos|>", "<|pad|>"):
        vocab[special] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eos|>", pad_token="<|pad|>"
    )


def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per English word, enough of them for filler, templates and values."""
    made_up = [a + b + c for a in "bdfgklmnprst" for b in ("al", "en", "or") for c in ("ta", "mi", "ku")]
    words = {"The", "the", "code", "of", "is", "Remember", "pass", "key", "near", ".", ":", *"0123456789", *made_up}
    for stock in (prose.ADJECTIVES, prose.ANIMALS, prose.VERBS, prose.COLOURS, prose.THINGS, prose.PLACES):
        words.update(stock)
    words.update((*prose.FIRST, *prose.LAST))
    vocab = {word: i for i, word in enumerate(["<unk>", "<s>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.post_processor = _bos(vocab["<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", pad_token="<unk>")


def _bos(index: int):
    from tokenizers import processors

    return processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", index)])


TOKENIZERS = {"bytes": byte_tokenizer, "words": word_tokenizer, "sandbox": build_tokenizer}


@pytest.fixture(params=sorted(TOKENIZERS))
def any_tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture
def byte_model():
    return tiny_qwen3(300)


@pytest.fixture
def small_run(sandbox_model, sandbox_tokenizer):
    """`evaluate` with few short documents; keyword arguments override."""

    def run(**given):
        values = {
            "methods": ["sliding", "stochastic"],
            "tasks": ["needle", "perplexity"],
            "lengths": [96],
            "seeds": [0, 1],
            "budgets": ["length/8"],
            "limit": 3,
            "batch_size": 2,
            "speed_rounds": 0,
        }
        return evaluate(sandbox_model, sandbox_tokenizer, **{**values, **given})

    return run
