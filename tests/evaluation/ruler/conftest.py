"""Five kinds of tokenizers, two of them trained here, and small stand-ins for the data that users give."""

from __future__ import annotations

import json
from functools import cache
from random import Random

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from attnpatch.evaluation.ruler import templates
from attnpatch.evaluation.ruler.tasks import ruler_tasks
from attnpatch.evaluation.tasks import TaskOptions
from attnpatch.evaluation.tasks.prose import sentence
from tests.tokens import byte_tokenizer

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in ("al", "en", "or", "ip", "ud")]
WORDS = sorted({a + b for a in SYLLABLES for b in SYLLABLES[::8]})
CHAT = (
    "{% for m in messages %}<|bos|>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def essay() -> str:
    rng = Random(0)
    return " ".join(f"{sentence(rng)} Note {number}." for number in range(300))


def corpus() -> list[str]:
    texts = [
        templates.NOISE,
        templates.NEEDLE,
        " ".join(WORDS),
        essay(),
        "0123456789 abcdef-ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    ]
    prompts = (templates.NEEDLES, templates.TRACKING, templates.COMMON_WORDS, templates.FREQUENT_WORDS)
    return [*texts, *(template.text + template.prefix for template in prompts)]


def word_level() -> PreTrainedTokenizerFast:
    """Whole words of the corpus where there are any, single characters elsewhere."""
    words = sorted({word for text in corpus() for word in words_of(text)}, key=lambda word: (-len(word), word))
    characters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", *characters, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*words, r"[\s\S]"])), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


def words_of(text: str) -> list[str]:
    return [word for word in "".join(c if c.isalpha() else " " for c in text).split() if len(word) > 1]


def char_level() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(["<unk>", "\n", *(chr(code) for code in range(32, 127))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def trained_bpe() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|eos|>", "<|pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1], pad_token=special[2]
    )


def trained_unigram() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=800,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
        initial_alphabet=[chr(code) for code in range(33, 127)] + ["\n"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "words": word_level,
    "characters": char_level,
    "bpe": trained_bpe,
    "unigram": trained_unigram,
}


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[kind]()


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request):
    return tokenizer_of(request.param)


SQUAD = {
    "data": [
        {
            "title": f"Article {a}",
            "paragraphs": [
                {
                    "context": f"In town {a} of district {p} the mayor is called {WORDS[10 * a + p].title()}.",
                    "qas": [
                        {
                            "question": f"Who is mayor of town {a} of district {p}?",
                            "is_impossible": False,
                            "answers": [{"text": WORDS[10 * a + p].title()}, {"text": f"{WORDS[10 * a + p]}"}],
                        },
                        {"question": "Why?", "is_impossible": True, "answers": []},
                    ],
                }
                for p in range(4)
            ],
        }
        for a in range(6)
    ]
}
HOTPOT = [
    {
        "question": f"What is the river of {WORDS[i]}?",
        "answer": WORDS[50 + i],
        "context": [
            [WORDS[i + j], [f"{WORDS[i + j]} is a town.", f" Its river is {WORDS[50 + i + j]}."]] for j in range(10)
        ],
    }
    for i in range(8)
]


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, str]:
    """Paths of all that RULER can ask for."""
    folder = tmp_path_factory.mktemp("material")
    texts = {
        "haystack": ("essay.txt", essay()),
        "squad": ("squad.json", json.dumps(SQUAD)),
        "hotpot": ("hotpot.json", json.dumps(HOTPOT)),
        "word_list": ("words.txt", "\n".join(WORDS)),
    }
    for name, text in texts.values():
        (folder / name).write_text(text)
    return {option: str(folder / name) for option, (name, _) in texts.items()}


@pytest.fixture
def options(files) -> TaskOptions:
    return TaskOptions(**files)


@pytest.fixture
def tasks_of(options):
    """`tasks_of(tokenizer, **other options)`: all RULER tasks."""

    def make(tokenizer, **other):
        return ruler_tasks(tokenizer, TaskOptions(**{**vars(options), **other}))

    return make
