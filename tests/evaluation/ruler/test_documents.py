"""Documents: as long as promised, the answers in them where they say, the same whoever asks."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

import pytest

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.generation import matches
from attnpatch.evaluation.ruler.build import Builder
from attnpatch.evaluation.ruler.material import Words
from attnpatch.evaluation.ruler.needles import Needles
from attnpatch.evaluation.ruler.prompt import Prompts
from attnpatch.evaluation.ruler.specs import ALL, OFFLINE, RULER_TASKS
from attnpatch.evaluation.tasks import documents_hash
from attnpatch.evaluation.tasks.language import Language

from .conftest import CHAT, TOKENIZERS, WORDS, tokenizer_of

# cwe below 4096 tokens is another one, and bytes need more than 4096 for it.
LENGTHS = {"bytes": 5000, "characters": 5000, "words": 2500, "bpe": 2300, "unigram": 2300}
NEEDLE_TASKS = [name for name in ALL if "niah" in name]


def builder_of(task) -> Builder:
    return task.build.args[0]


def text_of(tokenizer, document) -> str:
    return tokenizer.decode(document.input_ids, clean_up_tokenization_spaces=False)


def test_13_tasks_of_which_6_need_nothing():
    assert len(ALL) == 13
    assert [name.removeprefix("ruler_") for name in OFFLINE] == [
        "niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe",
    ]  # fmt: skip
    assert [RULER_TASKS[name].generated for name in ALL] == [128] * 8 + [30, 120, 50, 32, 32]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_length_is_used_up_and_never_exceeded(tasks_of, kind):
    tokenizer, length = tokenizer_of(kind), LENGTHS[kind]
    for name, task in tasks_of(tokenizer).items():
        if kind in ("bytes", "characters") and name == "ruler_cwe":
            length = 8000
        builder = builder_of(task)
        for document in task.documents(length, 2, 0):
            budget = length - task.generation.tokens
            assert len(document.input_ids) <= budget
            recipe = builder.recipe(length, int(document.id), 0)
            drafts = [
                recipe.draft(Random(f"0/{name}/{length}/{document.id}"), document.meta["items"] + more)
                for more in (0, 1)
            ]
            same, longer = (builder.prompts.encode(draft) for draft in drafts)
            assert same == document.input_ids
            assert len(longer) > budget, name


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_answers_stand_in_the_prompt(tasks_of, kind):
    tokenizer = tokenizer_of(kind)
    for name, task in tasks_of(tokenizer).items():
        length = 8000 if name == "ruler_cwe" and kind in ("bytes", "characters") else LENGTHS[kind]
        for document in task.documents(length, 2, 1):
            text = text_of(tokenizer, document)
            hits = matches(text, document.references, "all")
            assert sum(hits) == len(hits), (name, document.references)
            assert matches(" and ".join(document.references), document.references, task.generation.match).count(0) == 0


@pytest.mark.parametrize("name", NEEDLE_TASKS)
def test_needles_stand_at_the_stated_depth(tasks_of, name):
    tokenizer = tokenizer_of("characters")
    for document in tasks_of(tokenizer)[name].documents(4000, 3, 0):
        text = text_of(tokenizer, document)
        context = text.split("afterwards.\n", 1)[1].rsplit("\nWhat", 1)[0]
        assert len(document.meta["depth"]) == len(document.references)
        for reference, depth in zip(document.references, document.meta["depth"], strict=True):
            needle = re.search(rf"One of the special magic \S+ for \S+ is: {reference}\.", context)
            assert depth == pytest.approx(needle.start() / (len(context) - len(needle[0])))


@pytest.mark.parametrize("name", ["ruler_niah_single_1", "ruler_niah_multikey_1", "ruler_niah_multikey_3"])
def test_depths_can_be_asked_for(tasks_of, name):
    documents = tasks_of(tokenizer_of("bpe"), depths=(0, 30, 100))[name].documents(2000, 6, 0)
    assert [document.meta["place"] for document in documents] == [0, 0.3, 1, 0, 0.3, 1]
    for document in documents:
        assert document.meta["depth"][0] == pytest.approx(document.meta["place"], abs=0.05)
    drawn = tasks_of(tokenizer_of("bpe"))[name].documents(2000, 6, 0)
    assert len({document.meta["depth"][0] for document in drawn}) > 3
    assert "place" not in drawn[0].meta


def test_several_values_have_several_depths(tasks_of):
    document = tasks_of(tokenizer_of("bpe"), depths=(0,))["ruler_niah_multivalue"].documents(2000, 1, 0)[0]
    assert len(set(document.meta["depth"])) == 4
    assert "place" not in document.meta


def test_needle_prompt_word_by_word(tasks_of):
    tokenizer = tokenizer_of("characters")
    document = tasks_of(tokenizer)["ruler_niah_single_1"].documents(1200, 1, 0)[0]
    text = text_of(tokenizer, document)
    (value,) = document.references
    key = re.search(rf"One of the special magic numbers for (\S+) is: {value}\.", text)[1]
    assert set(key.split("-")) <= set(WORDS)
    noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
    needle = f"One of the special magic numbers for {key} is: {value}."
    start = (
        "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about "
        "the number afterwards.\n"
    )
    end = (
        f"\nWhat is the special magic number for {key} mentioned in the provided text? The special magic number for "
        f"{key} mentioned in the provided text is"
    )
    assert text.startswith(start)
    assert text.endswith(end)
    lines = text[len(start) : -len(end)].split("\n")
    assert sorted(lines) == sorted([needle, *[noise] * document.meta["items"]])


def test_several_needles_are_asked_in_the_plural(tasks_of):
    tokenizer = tokenizer_of("characters")
    document = tasks_of(tokenizer)["ruler_niah_multiquery"].documents(3000, 1, 0)[0]
    text = text_of(tokenizer, document)
    assert text.startswith("Some special magic numbers are hidden within the following text.")
    keys = re.search(r"What are all the special magic numbers for (.*) mentioned in the provided text\?", text)[1]
    first, second, third, last = keys.replace(", and ", ", ").split(", ")
    assert keys == f"{first}, {second}, {third}, and {last}"
    for key, value in zip((first, second, third, last), document.references, strict=True):
        assert f"magic numbers for {key} is: {value}." in text
    assert text.endswith("mentioned in the provided text are")


def test_values_belong_to_their_keys():
    words = Words(WORDS, WORDS, WORDS)
    draft = Needles("noise", keys=3, values=2, queries=2).recipe(words, [], None).draft(Random(0), 40)
    found = re.findall(r"magic numbers for (\S+) is: (\d{7})\.", draft.text)
    assert len(found) == len({value for _, value in found}) == 6
    asked = re.search(r"numbers for (\S+), and (\S+) mentioned in the provided text\?", draft.text).groups()
    owned = [{value for key, value in found if key == wanted} for wanted in asked]
    assert [set(draft.references[:2]), set(draft.references[2:])] == owned


def test_variables_follow_one_chain(tasks_of):
    tokenizer = tokenizer_of("characters")
    document = tasks_of(tokenizer)["ruler_vt"].documents(5000, 1, 0)[0]
    text = text_of(tokenizer, document)
    example, _, asked = text.rpartition("Memorize and track")
    value = re.search(r"assigned the value (\d{5}) in the text above\.", asked)[1]
    assert asked.endswith(f"5 variables are assigned the value {value}, they are: ")
    lines = re.findall(r"^VAR (\w{5}) = (.+)$", asked, re.MULTILINE)
    assert [name for name, _ in lines] == list(document.references)
    assert [source.strip() for _, source in lines] == [value, *(f"VAR {name}" for name in document.references[:-1])]
    shown = re.findall(r"^VAR (\w{3}) = ", example, re.MULTILINE)
    assert example.endswith(f"they are: {' '.join(shown)}\n\n")
    assert len(shown) == 5
    assert value not in example
    assert document.meta["depth"] == sorted(document.meta["depth"])


def test_the_example_of_vt_takes_500_tokens_with_its_answer(tasks_of):
    tokenizer = tokenizer_of("bpe")
    text = text_of(tokenizer, tasks_of(tokenizer)["ruler_vt"].documents(2000, 1, 0)[0])
    example = text[: text.rindex("Memorize and track")]
    assert 430 < len(Language(tokenizer).encode(example)) <= 480


@pytest.mark.parametrize("length, often, rarely, shown", [(3000, 6, 1, (20, 3, 1)), (9000, 30, 3, (40, 10, 3))])
def test_common_words_are_common(tasks_of, length, often, rarely, shown):
    tokenizer = tokenizer_of("characters")
    document = tasks_of(tokenizer)["ruler_cwe"].documents(length, 1, 0)[0]
    text = text_of(tokenizer, document)
    example, asked = text.rsplit("Below is", 1)
    counts = Counter(re.findall(r"\d+\. (\w+)", asked.partition("\nQuestion")[0]))
    assert {word for word, n in counts.items() if n == often} == set(document.references)
    assert {n for word, n in counts.items() if word not in document.references} <= {rarely}
    assert len(document.references) == 10
    listed, answer = example.split("\nQuestion")
    counts = Counter(re.findall(r"\d+\. (\w+)", listed))
    assert (len(counts), max(counts.values()), min(counts.values())) == shown
    common = [word for word, n in counts.items() if n == shown[1]]
    assert sorted(re.findall(r"\d+\. (\w+)", answer)) == sorted(common)
    assert example.endswith("\n")


def test_coded_words_fall_off_with_rank(tasks_of):
    tokenizer = tokenizer_of("bytes")
    for length in (1000, 2000, 6000):
        document = tasks_of(tokenizer)["ruler_fwe"].documents(length, 1, 0)[0]
        context = text_of(tokenizer, document).split("coded words. ", 1)[1].split("\nQuestion")[0]
        ranked = Counter(context.split()).most_common()
        assert ranked[0][0] == "..."
        assert tuple(word for word, _ in ranked[1:4]) == document.references
        assert ranked[3][1] > ranked[4][1]


def test_squad_asks_for_what_its_document_says(tasks_of):
    tokenizer = tokenizer_of("characters")
    documents = tasks_of(tokenizer)["ruler_qa_squad"].documents(1500, 12, 0)
    questions = set()
    for document in documents:
        text = text_of(tokenizer, document)
        town, district = re.search(r"Question: Who is mayor of town (\d+) of district (\d+)\? Answer:$", text).groups()
        gold = f"In town {town} of district {district} the mayor is called {document.references[0]}."
        assert re.search(rf"Document \d+:\n{gold}", text)
        questions.add((town, district))
        # Four paragraphs of the article come before any other.
        assert len(set(re.findall(rf"In town {town} of district (\d)", text))) == 4
    assert len(questions) == 12


def test_documents_repeat_when_they_run_out(tasks_of):
    tokenizer = tokenizer_of("bpe")
    document = tasks_of(tokenizer)["ruler_qa_squad"].documents(3000, 1, 0)[0]
    assert document.meta["items"] > 24
    shown = re.findall(r"In town (\d) of district (\d)", text_of(tokenizer, document))
    assert len(set(shown)) == 24


def test_hotpot_shows_all_ten_documents(tasks_of):
    tokenizer = tokenizer_of("bpe")
    document = tasks_of(tokenizer)["ruler_qa_hotpot"].documents(1500, 1, 0)[0]
    assert document.meta["items"] >= 10
    assert f"Its river is {document.references[0]}." in text_of(tokenizer, document)


def test_chat_template_is_part_of_the_length(tasks_of):
    tokenizer = tokenizer_of("bytes")
    tokenizer.chat_template = CHAT
    try:
        task = tasks_of(tokenizer, chat_template=True)["ruler_niah_single_1"]
        for length in range(1500, 1600, 9):
            document = task.documents(length, 1, 0)[0]
            text = text_of(tokenizer, document)
            assert text.startswith("<|bos|>user: A special magic number is hidden")
            assert re.search(r"\nassistant: The special magic number for \S+ mentioned in the provided text is$", text)
            assert length - 128 - 90 < len(document.input_ids) <= length - 128
        plain = tasks_of(tokenizer)["ruler_niah_single_1"].documents(1500, 1, 0)[0]
        assert text_of(tokenizer, plain).startswith("A special")
    finally:
        tokenizer.chat_template = None
    with pytest.raises(SkipCell, match="no chat template"):
        tasks_of(tokenizer, chat_template=True)["ruler_niah_single_1"].documents(1500, 1, 0)


def test_start_tokens_stay():
    tokenizer = tokenizer_of("bpe")
    assert Prompts(tokenizer).ids("a") == tokenizer.encode("a", add_special_tokens=False)
    assert list(Prompts(tokenizer)._start) == tokenizer.encode("")


@pytest.mark.parametrize("name", ALL)
def test_samples_depend_on_seed_and_index_alone(tasks_of, monkeypatch, name):
    monkeypatch.setattr("attnpatch.evaluation.ruler.tasks._cache.largest", 0)  # nothing is kept
    tokenizer = tokenizer_of("bpe")
    first = tasks_of(tokenizer)[name].documents(2300, 3, 0)
    Random(5).random()
    tasks_of(tokenizer)["ruler_fwe"].documents(1500, 2, 0)
    again = tasks_of(tokenizer)[name].documents(2300, 5, 0)
    assert documents_hash(again[:3]) == documents_hash(first)
    assert documents_hash(tasks_of(tokenizer)[name].documents(2300, 3, 1)) != documents_hash(first)
    assert len({tuple(document.input_ids) for document in again}) == 5


def test_limit_makes_so_many_samples_and_no_more(tasks_of, monkeypatch):
    made = set()
    original = Builder._random

    def counted(self, length, index, seed):
        made.add(index)
        return original(self, length, index, seed)

    monkeypatch.setattr(Builder, "_random", counted)
    assert len(tasks_of(tokenizer_of("bpe"))["ruler_niah_multikey_2"].documents(1111, 4, 9)) == 4
    assert made == {0, 1, 2, 3}


def test_documents_are_kept(tasks_of):
    tokenizer = tokenizer_of("bpe")
    first = tasks_of(tokenizer)["ruler_niah_single_1"].documents(1300, 2, 0)
    assert tasks_of(tokenizer)["ruler_niah_single_1"].documents(1300, 2, 0)[0] is first[0]
    assert tasks_of(tokenizer, depths=(50,))["ruler_niah_single_1"].documents(1300, 2, 0)[0] is not first[0]
    assert tasks_of(tokenizer, word_list=None)["ruler_niah_single_1"].documents(1300, 2, 0)[0] is not first[0]
    assert tasks_of(tokenizer_of("bytes"))["ruler_niah_single_1"].documents(1300, 2, 0)[0] is not first[0]
