"""Rows become conversations, conversations become tokens, and the answer starts exactly where prompt_end says."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from attnpatch.training.conversation import CUT, Conversation, read_conversation
from attnpatch.training.data_settings import Columns
from attnpatch.training.problems import DataError
from attnpatch.training.render import Renderer
from attnpatch.training.templates import EmptyField, fill

ROW = {
    "title": "A title",
    "paragraphs": [{"text": "one", "n": 1}, {"text": "two", "n": 2}],
    "answers": ["first", "second"],
    "meta": {"source": {"name": "x"}, "none": None},
    "sub-paragraphs": "dashes",
    "year": 1999,
    "nothing": None,
    "no_answers": [],
    "chat": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
}


@pytest.mark.parametrize(
    "template, join, text",
    [
        ("plain", False, "plain"),
        ("{title}: {year}", False, "A title: 1999"),
        ("{{{title}}}", False, "{A title}"),
        ("{paragraphs[text]}", True, "one\n\ntwo"),
        ("{paragraphs[text]}", False, "one"),
        ("{paragraphs[1][text]}", True, "two"),
        ("{answers}", False, "first"),
        ("{answers[1]}", False, "second"),
        ("{meta[source][name]}{meta.source.name}", False, "xx"),
        ("{sub-paragraphs}", False, "dashes"),
    ],
)
def test_templates(template, join, text):
    assert fill(template, ROW, join=join) == text


@pytest.mark.parametrize("template", ["{nothing}", "{meta[none]}", "{no_answers}", "{answers[5]}"])
def test_templates_over_nothing(template):
    with pytest.raises(EmptyField):
        fill(template, ROW)


@pytest.mark.parametrize(
    "template, message",
    [
        ("{titel}", "no column 'titel'. Did you mean 'title'?"),
        ("{paragraphs[txt]}", "no key 'txt'. Did you mean 'text'?"),
        ("{paragraphs}", r"column 'paragraphs' holds a struct; pick a key: {paragraphs[text]}"),
        ("{title[x]}", "no key 'x' in 'A title', which is str"),
    ],
)
def test_mistakes_in_templates(template, message):
    with pytest.raises(DataError) as error:
        fill(template, ROW)
    assert message in str(error.value)


def test_conversations():
    columns = Columns(context="{paragraphs[text]}", question="Q: {title}", answer="{answers}", system="Be {title}")
    made = read_conversation(ROW, columns)
    assert [turn["role"] for turn in made.messages()] == ["system", "user", "assistant"]
    assert made.messages()[1]["content"] == "one\n\ntwo\n\nQ: A title"
    assert made.answer == "first"
    other = read_conversation(ROW, columns, context_first=False)
    assert other.messages()[1]["content"] == "Q: A title\n\none\n\ntwo"


def test_chats():
    made = read_conversation(ROW, Columns(messages="chat", context="{title}"))
    assert made.messages() == [
        {"role": "user", "content": "A title\n\nhi"},
        {"role": "assistant", "content": "hello"},
    ]
    longer = {"chat": [*ROW["chat"], {"role": "user", "content": "and?"}], "answers": ["so"]}
    assert read_conversation(longer, Columns(messages="chat", answer="{answers}")).answer == "so"


@pytest.mark.parametrize(
    "chat, answer, message",
    [
        ("hi", None, "messages must be a list of {role, content} texts, got 'hi'"),
        ([{"role": "user"}], None, "messages must be a list"),
        ([{"from": "human", "value": "hi"}], None, "messages must be a list"),
        ([{"role": "assistant", "content": "hi"}], None, "no user turn, only assistant"),
        ([{"role": "user", "content": "hi"}], None, "ends with the turn of 'user'"),
        (ROW["chat"], "{a}", "ends with an answer already; leave columns.answer out"),
    ],
)
def test_chats_that_are_none(chat, answer, message):
    with pytest.raises(DataError) as error:
        read_conversation({"chat": chat, "a": "x"}, Columns(messages="chat", answer=answer))
    assert message in str(error.value)


@pytest.mark.parametrize("row", [{"q": "x", "a": " "}, {"q": "", "a": "x"}])
def test_rows_without_question_or_answer(row):
    assert read_conversation(row, Columns(question="{q}", answer="{a}")) is None


TALK = Conversation((("user", "What?"), ("assistant", " That. ")), "Long text")


def test_answer_span_with_a_chat_template(chat_tokenizer):
    made = Renderer(chat_tokenizer)(TALK)
    before, after = made.input_ids[: made.prompt_end], made.input_ids[made.prompt_end :]
    assert chat_tokenizer.decode(before) == "<|user|>Long text\n\nWhat?<|end|>\n<|assistant|>"
    assert chat_tokenizer.decode(after) == "That.<|end|>\n"
    assert not made.apart


def test_answer_span_over_many_turns(chat_tokenizer):
    turns = (("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    made = Renderer(chat_tokenizer)(Conversation(turns))
    assert chat_tokenizer.decode(made.input_ids[made.prompt_end :]) == "d<|end|>\n"
    assert "<|assistant|>b<|end|>" in chat_tokenizer.decode(made.input_ids[: made.prompt_end])


def test_plain_text_where_there_is_no_template(tokenizer):
    renderer = Renderer(tokenizer)
    made = renderer(TALK)
    assert tokenizer.decode(made.input_ids[: made.prompt_end]) == "Long text\n\nWhat?\n\n"
    assert tokenizer.decode(made.input_ids[made.prompt_end :]) == " That. <|eos|>"
    assert "no chat template" in renderer.description


def test_the_plain_text_of_a_tokenizer_that_starts_rows(sandbox_tokenizer):
    made = Renderer(sandbox_tokenizer)(Conversation((("user", "ask"), ("assistant", "7"))))
    assert sandbox_tokenizer.convert_ids_to_tokens(made.input_ids) == ["<bos>", "ask", "7", "<eos>"]
    assert made.prompt_end == 2


def test_thinking_is_off_and_the_date_stands_still(chat_tokenizer):
    chat_tokenizer.chat_template = (
        "{{ date_string }}{% for m in messages %}[{{ m.role }}]{% if loop.last and m.role == 'assistant' %}"
        "<think></think>{% endif %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]"
        "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
    )
    renderer = Renderer(chat_tokenizer)
    made = renderer(TALK)
    assert chat_tokenizer.decode(made.input_ids[made.prompt_end :]) == " That. "
    assert chat_tokenizer.decode(made.input_ids).startswith("26 Jul 2024")
    assert not made.apart
    assert "thinking off" in renderer.description


def merging_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Letters, a blank, and one merge: blank + x is one token."""
    letters = ["[", "]", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "Ġx", "<|end|>"]
    model = models.BPE(vocab={token: i for i, token in enumerate(letters)}, merges=[("Ġ", "x")])
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")
    tokenizer.chat_template = template
    return tokenizer


PLAIN = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


def test_an_answer_that_would_share_a_token_with_the_prompt():
    tokenizer = merging_tokenizer(PLAIN)
    made = Renderer(tokenizer)(Conversation((("user", "ab"), ("assistant", "xyz"))))
    tokens = tokenizer.convert_ids_to_tokens(made.input_ids)
    assert made.apart
    assert tokens[made.prompt_end - 1 :] == ["Ġ", "x", "y", "z"]
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "ab"}], add_generation_prompt=True)[
        "input_ids"
    ]
    assert made.input_ids[: made.prompt_end] == prompt
    assert not Renderer(tokenizer)(Conversation((("user", "ab"), ("assistant", "yx")))).apart


def test_a_template_that_rewrites_the_prompt():
    tokenizer = merging_tokenizer(PLAIN.replace("[assistant] ", "[assistant] think"))
    made = Renderer(tokenizer)(Conversation((("user", "ab"), ("assistant", "cd"))))
    assert made.apart
    assert tokenizer.convert_ids_to_tokens(made.input_ids[made.prompt_end :]) == ["c", "d", "<|end|>"]


def test_a_template_that_refuses(chat_tokenizer):
    chat_tokenizer.chat_template = "{{ raise_exception('no system turn, please') }}"
    with pytest.raises(DataError, match="no system turn, please"):
        Renderer(chat_tokenizer)(TALK)


@pytest.mark.parametrize("room", [120, 121, 150, 199])
def test_too_long_loses_the_middle_of_its_context(chat_tokenizer, room):
    context = "start " + "x" * 200 + " end"
    talk = Conversation((("user", "What is it?"), ("assistant", "An answer.")), context)
    renderer = Renderer(chat_tokenizer)
    made = renderer.fit(talk, room)
    text = chat_tokenizer.decode(made.input_ids)
    assert room - 5 <= len(made.input_ids) <= room
    assert text.startswith("<|user|>start xx")
    assert "xx end\n\nWhat is it?<|end|>" in text
    assert CUT in text
    assert chat_tokenizer.decode(made.input_ids[made.prompt_end :]) == "An answer.<|end|>\n"


def test_too_long_without_a_context_is_cut_in_the_longest_question(chat_tokenizer):
    talk = Conversation((("user", "short"), ("assistant", "ok"), ("user", "y" * 300), ("assistant", "fine")))
    made = Renderer(chat_tokenizer).fit(talk, 200)
    text = chat_tokenizer.decode(made.input_ids)
    assert "short" in text
    assert text.endswith("fine<|end|>\n")
    assert len(made.input_ids) <= 200


def test_question_and_answer_alone_can_be_too_long(chat_tokenizer):
    assert Renderer(chat_tokenizer).fit(TALK, 30) is None
