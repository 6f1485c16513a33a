"""Which tokens of a prompt are its question, and which of those carry content."""

from __future__ import annotations

import copy
import json
import sys
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import attnpatch
from attnpatch.methods.vision.content_words import Pieces, by_stop_words, content_tokens
from attnpatch.methods.vision.gift import GIFT
from attnpatch.methods.vision.question import template_tails, without_tail
from attnpatch.methods.vision.vocabulary import GivenTokenizer, Vocabulary
from attnpatch.patching.method import build_config
from attnpatch.sandbox.vision.vocabulary import ASSISTANT, CHAT_TEMPLATE, ID, build_tokenizer
from tests import zoo
from tests.methods.vision.gift_cases import Tokenizer as FewWords
from tests.tokens import byte_tokenizer

PARTS = (
    "{% for part in messages[0]['content'] %}{{ part['text'] if part['type'] == 'text' else '<image>' }}{% endfor %}"
)
LLAVA = "USER: " + PARTS + "{{ ' ASSISTANT:' if add_generation_prompt }}"
CHATML = (
    "<|user|>{{ raise_exception('text only') if messages[0]['content'] is not string }}{{ messages[0]['content'] }}"
    "<|end|>\n{{ '<|answer|>' if add_generation_prompt }}"
)
MARKS = ["<s>", "</s>", "<image>", "<|user|>", "<|end|>", "<|answer|>"]


def word_pieces(template: str | None) -> PreTrainedTokenizerFast:
    """SentencePiece-like pieces of a few words; every other character is a token."""
    pieces = [
        "▁",
        "▁is",
        "▁there",
        "▁a",
        "▁red",
        "▁cir",
        "cle",
        "s",
        "?",
        "▁don",
        "'",
        "t",
        "▁A",
        "SS",
        "IST",
        "ANT",
        ":",
    ]
    letters = [chr(code) for code in range(33, 127) if chr(code) not in pieces] + ["\n"]
    vocabulary = [(token, -1.0) for token in pieces] + [(letter, -20.0) for letter in letters]
    tokenizer = Tokenizer(models.Unigram([("<unk>", -99.0), *vocabulary], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(MARKS)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = template
    return fast


def pieces_of(tokenizer, text: str, **options) -> tuple[list[str], list[str]]:
    """The question of a prompt and its content tokens, as pieces."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    first = 1 + max(i for i, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids("<image>"))
    vocabulary = Vocabulary(set(), tokenizer, **{"content": "stopword", **options})
    question = [ids[index] for index in vocabulary.question(ids, first)]
    content = [token for token, yes in zip(question, vocabulary.content(question), strict=True) if yes]
    return tuple(tokenizer.convert_ids_to_tokens(part) for part in (question, content))


QUESTION = ["▁is", "▁there", "▁a", "▁red", "▁cir", "cle", "?"]


def test_the_template_s_end_is_no_question():
    question, content = pieces_of(word_pieces(LLAVA), "USER: <image> is there a red circle? ASSISTANT:")
    assert (question, content) == (QUESTION, ["▁red", "▁cir", "cle"])


def test_without_a_template_the_end_can_be_named():
    text = "<image> is there a red circle? ASSISTANT:"
    assert pieces_of(word_pieces(None), text)[0] == [*QUESTION, "▁A", "SS", "IST", "ANT", ":"]
    assert pieces_of(word_pieces(None), text, tail=" ASSISTANT:")[0] == QUESTION
    assert pieces_of(word_pieces(LLAVA), text, tail="")[0] == [*QUESTION, "▁A", "SS", "IST", "ANT", ":"]


def test_a_template_for_text_alone_and_special_tokens():
    text = "<|user|><image> is there a red circle?<|end|>\n"
    for end in ("<|answer|>", ""):
        question, content = pieces_of(word_pieces(CHATML), text + end)
        assert (question, content) == (QUESTION, ["▁red", "▁cir", "cle"])


def test_special_tokens_are_no_question():
    question, _ = pieces_of(word_pieces(None), "<image></s><|user|> is there a red circle?")
    assert question == QUESTION


def test_words_that_a_tokenizer_does_not_know_are_no_tail():
    tokenizer = copy.deepcopy(build_tokenizer())
    tokenizer.chat_template = CHAT_TEMPLATE
    assert template_tails(tokenizer, tokenizer) == [[ID[ASSISTANT]], []]


def test_a_template_that_takes_no_question_is_refused():
    with pytest.raises(attnpatch.AttnPatchError, match=r"leaves the question out.*tail=' ASSISTANT:'"):
        Vocabulary(set(), word_pieces("USER: {{ 'hello' }}"), "stopword")


def test_a_processor_holds_the_template():
    tokenizer, templated = word_pieces(None), word_pieces(LLAVA)
    processor = SimpleNamespace(
        tokenizer=tokenizer, chat_template=LLAVA, apply_chat_template=templated.apply_chat_template
    )
    ids = tokenizer("<image> a red? ASSISTANT:", add_special_tokens=False)["input_ids"]
    found = Vocabulary(set(), processor, "stopword").question(ids, 1)
    assert tokenizer.convert_ids_to_tokens([ids[index] for index in found]) == ["▁a", "▁red", "?"]


@pytest.mark.parametrize(
    ("tokens", "tails", "left"),
    [
        ([1, 2, 3, 4], [[3, 4]], 2),
        ([1, 2, 9, 4], [[3, 4]], 3),  # the 3 was merged with what is before it
        ([1, 2, 3, 4], [[2, 3, 4], [4]], 1),
        ([1, 2, 3, 4], [[5], []], 4),
        ([4], [[4]], 0),
    ],
)
def test_a_tail_may_have_been_merged_at_its_beginning(tokens, tails, left):
    assert without_tail(tokens, tails) == left


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Is there a red circle in the image?", ["red", "circle", "image"]),
        ("What's the man's T-shirt made of?", ["man", "shirt", "made"]),
        ("How many dogs aren't asleep, 2 or 3?", ["many", "dogs", "asleep", "2", "3"]),
        ("Please describe this image in detail.", ["describe", "image", "detail"]),
        ("What is it?", []),
    ],
)
def test_stop_words(text, words):
    assert [text[begin:end] for begin, end in by_stop_words(text)] == words


def test_pieces_of_bytes_form_words():
    tokenizer = byte_tokenizer()
    text = "a réd box"
    ids = tokenizer(text)["input_ids"]
    pieces = Pieces(tokenizer)
    assert len(pieces.of(ids)) == len(ids)
    found = content_tokens(pieces.of(tokenizer("is a box?")["input_ids"]), by_stop_words)
    assert found == [False] * 5 + [True] * 3 + [False]


def test_pieces_are_remembered_as_far_as_there_is_room(monkeypatch):
    decoded, tokenizer = [], FewWords()

    def decode(ids: list[int], **options: object) -> str:
        decoded.append(tuple(ids))
        return FewWords.decode(tokenizer, ids, **options)

    monkeypatch.setattr(tokenizer, "decode", decode, raising=False)
    pieces = Pieces(tokenizer)
    first = pieces.of([5, 6, 5, 6])
    assert "".join(first) == FewWords.decode(tokenizer, [5, 6, 5, 6])
    decoded.clear()
    assert pieces.of([5, 6]) + pieces.of([5, 6, 5])[2:] == first[:3]
    assert not decoded
    monkeypatch.setattr(Pieces, "ROOM", 1)
    assert pieces.of([5, 6, 7]) == [*first[:2], *pieces.of([5, 6, 7])[2:]]
    assert decoded


def test_where_no_word_carries_content_all_tokens_do():
    vocabulary = Vocabulary(set(), FewWords(), "stopword", tail=None)
    assert vocabulary.content([5, 6, 7]) == [True] * 3
    assert vocabulary.content([5, 8, 7]) == [False, True, False]
    assert vocabulary.content([]) == []


def test_spacy_tags_decide(monkeypatch):
    def load(name: str):
        assert name == "en_core_web_sm"
        tags = {"red": "ADJ", "circle": "NOUN", "is": "AUX"}

        def tag(text: str) -> list:
            words = text.split()
            return [SimpleNamespace(idx=text.index(word), text=word, pos_=tags.get(word, "DET")) for word in words]

        return tag

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    vocabulary = Vocabulary(set(), FewWords(), "spacy")
    assert vocabulary.content([5, 7, 8, 9]) == [False, False, True, True]


def test_spacy_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(attnpatch.AttnPatchError, match=r"pip install spacy.*spacy download en_core_web_sm.*stopword"):
        Vocabulary(set(), FewWords(), "spacy")


def test_a_model_without_a_name_needs_a_tokenizer(tmp_path):
    model = zoo.build("llava")
    options = {"saliency_layer": 0, "layers": (1,)}
    with pytest.raises(attnpatch.AttnPatchError, match=r"no name to load its tokenizer by.*tokenizer=.*content='all'"):
        attnpatch.apply(model, "gift", **options)
    with pytest.raises(attnpatch.AttnPatchError, match=r"the tokenizer of .* cannot be loaded.*content='all'"):
        attnpatch.apply(model, "gift", tokenizer=str(tmp_path), **options)
    word_pieces(LLAVA).save_pretrained(tmp_path)
    with attnpatch.apply(model, "gift", tokenizer=str(tmp_path), **options) as patch:
        assert patch.methods[0].vocabulary.reads_tokens
    model.config.name_or_path = str(tmp_path)
    with attnpatch.apply(model, "gift", **options) as patch:
        assert patch.methods[0].vocabulary.reads_tokens


@pytest.mark.parametrize("held", [False, True], ids=["tokenizer", "processor"])
def test_the_tokenizer_of_another_model(held):
    model, options = zoo.build("llava"), {"saliency_layer": 0, "layers": (1,)}
    tokenizer = words(129)
    given = SimpleNamespace(tokenizer=tokenizer) if held else tokenizer
    message = r"has 129 tokens and LlavaModel embeddings for 128, so it is another model's.*tokenizer=processor"
    with pytest.raises(attnpatch.AttnPatchError, match=message):
        attnpatch.apply(model, "gift", tokenizer=given, **options)
    with pytest.raises(attnpatch.AttnPatchError, match=message):
        GIFT.calibrate(model, [zoo.image_prompt("llava")], tokenizer=given)
    assert attnpatch.patches(model) == []


def test_the_processor_of_another_model_of_the_same_size():
    model, options = zoo.build("llava"), {"saliency_layer": 0, "layers": (1,)}
    inner = words(120)
    begin = {"tokenizer": inner, "image_token_id": 39}  # as Gemma 3's processor names the token that begins an image
    message = r"marks images by token 39 and LlavaModel by token 100, so it is another model's.*tokenizer=processor"
    for other in (SimpleNamespace(**begin), words(120, image="word39")):
        with pytest.raises(attnpatch.AttnPatchError, match=message):
            attnpatch.apply(model, "gift", tokenizer=other, **options)
    own = SimpleNamespace(tokenizer=inner, image_token_id=100)
    for fits in (own, SimpleNamespace(**begin, image_token_ids=[100, None]), words(120, image="word100")):
        with attnpatch.apply(model, "gift", tokenizer=fits, **options) as patch:
            assert patch.methods[0].vocabulary.reads_tokens


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_5_vl"])
def test_a_tokenizer_may_be_smaller_than_the_embeddings_and_have_tokens_added_to_it(family):
    model, options = zoo.build(family), {"saliency_layer": 0, "layers": (1,)}
    small, full, added = words(40), words(128), words(126)
    added.add_tokens(["<one>", "<two>", "<three>", "<four>"])
    assert len(added) == 130
    for tokenizer in (small, full, added):  # that of 40 does not know the image token, id 100
        with attnpatch.apply(model, "gift", tokenizer=tokenizer, **options) as patch:
            assert patch.methods[0].vocabulary.reads_tokens


def words(count: int, *, image: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({f"word{number}": number for number in range(count)}, unk_token="word0"))
    extra = {} if image is None else {"extra_special_tokens": {"image_token": image}}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="word0", **extra)


def test_a_config_with_a_tokenizer_can_be_saved_and_printed(tmp_path):
    tokenizer = word_pieces(LLAVA)
    gift = GIFT(tokenizer=tokenizer, alpha=2.0)
    assert isinstance(gift.config.tokenizer, GivenTokenizer)
    assert "without a name>" in repr(gift)
    assert len(repr(gift)) < 400
    saved = json.loads(json.dumps(gift.saved_config()))
    assert (saved["tokenizer"], saved["alpha"]) == (None, 2.0)
    tokenizer.save_pretrained(tmp_path)
    named = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    saved = GIFT(tokenizer=named).saved_config()
    assert saved["tokenizer"] == str(tmp_path)
    assert GIFT(**{**saved, "layers": None}).config.tokenizer == str(tmp_path)
    with pytest.raises(attnpatch.AttnPatchError, match="give a tokenizer or processor of transformers"):
        GIFT(tokenizer=3)


def test_options_from_the_command_line():
    config = build_config(
        GIFT, {"alpha": "2", "layers": "3:5", "tokenizer": "some/model", "content": "spacy"}, from_text=True
    )
    assert (config.alpha, config.layers, config.tokenizer) == (2.0, "3:5", "some/model")
