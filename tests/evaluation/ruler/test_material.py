"""What users give: files and data sets in their formats, and clear words about what is missing."""

from __future__ import annotations

import json
import sys

import pytest

from attnpatch.evaluation.errors import SkipCell, UsageError
from attnpatch.evaluation.ruler.material import Material
from attnpatch.evaluation.tasks import TaskOptions

from .conftest import HOTPOT, SQUAD, tokenizer_of


@pytest.mark.parametrize(
    "name, flag",
    [
        ("ruler_niah_single_2", "--haystack FILE (or --text-file FILE)"),
        ("ruler_qa_squad", "--squad FILE"),
        ("ruler_qa_hotpot", "--hotpot FILE"),
    ],
)
def test_missing_data_is_a_skip_with_the_flag(tasks_of, name, flag):
    tasks = tasks_of(tokenizer_of("bpe"), haystack=None, squad=None, hotpot=None)
    with pytest.raises(SkipCell, match=f"^{name}") as error:
        tasks[name].documents(2000, 1, 0)
    assert flag in error.value.fix


def test_text_file_serves_as_haystack(tasks_of, files):
    with_text = tasks_of(tokenizer_of("bpe"), haystack=None, text_file=files["haystack"])
    one = with_text["ruler_niah_single_2"].documents(2000, 1, 0)
    assert one == tasks_of(tokenizer_of("bpe"))["ruler_niah_single_2"].documents(2000, 1, 0)


def test_wonderwords_or_a_word_list(monkeypatch, files):
    stock = Material(TaskOptions()).words
    assert len(stock.all) > 8000
    assert set(stock.adjectives) | set(stock.nouns) < set(stock.all)
    assert stock.all == sorted(set(stock.all))
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    with pytest.raises(SkipCell, match="wonderwords, which is not installed") as error:
        _ = Material(TaskOptions()).words
    assert 'pip install "attnpatch[eval]"' in error.value.fix
    assert "--word-list" in error.value.fix
    assert len(Material(TaskOptions(word_list=files["word_list"])).words.all) > 400


@pytest.mark.parametrize(
    "option, what",
    [("word_list", "words"), ("haystack", "essay"), ("squad", "squad"), ("hotpot", "hotpot")],
)
@pytest.mark.parametrize("content", ["", "[]", '{"data": 3}', '[{"question": "?"}]', b"\xff\xfe\xff"])
def test_files_that_cannot_be_read(tmp_path, option, what, content):
    path = tmp_path / "given.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    readable_text = option in ("word_list", "haystack") and content not in ("", b"\xff\xfe\xff")
    if readable_text and option == "haystack":
        assert Material(TaskOptions(haystack=str(path))).essay
        return
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} '.*given.json'"):
        getattr(Material(TaskOptions(**{option: str(path)})), what)


@pytest.mark.parametrize("option", ["squad", "hotpot", "haystack", "word_list"])
def test_files_that_are_not_there(option):
    what = {"haystack": "essay", "word_list": "words"}.get(option, option)
    with pytest.raises(UsageError, match=r"does not exist|cannot be read"):
        getattr(Material(TaskOptions(**{option: "./missing/file.json"})), what)


def test_unanswerable_questions_are_left_out(files):
    found = Material(TaskOptions(squad=files["squad"])).squad
    assert len(found.documents) == 24
    assert len(found.questions) == 24
    assert {len(question.more) for question in found.questions} == {3}


def as_rows(what: str) -> list[dict]:
    """The same data in the columns that the Hub has."""
    if what == "hotpot":
        return [
            {**one, "context": {"title": [t for t, _ in one["context"]], "sentences": [s for _, s in one["context"]]}}
            for one in HOTPOT
        ]
    return [
        {
            "title": article["title"],
            "context": part["context"],
            "question": one["question"],
            "answers": {"text": [answer["text"] for answer in one["answers"]], "answer_start": []},
        }
        for article in SQUAD["data"]
        for part in article["paragraphs"]
        for one in part["qas"]
    ]


@pytest.mark.parametrize("what", ["squad", "hotpot"])
def test_hub_rows_say_the_same_as_the_official_file(monkeypatch, files, what):
    datasets = pytest.importorskip("datasets")
    asked = []

    def split_names(name, config=None):
        asked.append((name, config))
        return ["train", "validation"]

    monkeypatch.setattr(datasets, "get_dataset_split_names", split_names)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, config, split: as_rows(what) if split == "validation" else 0
    )
    hub = getattr(Material(TaskOptions(**{what: "owner/name"})), what)
    file = getattr(Material(TaskOptions(**{what: files[what]})), what)
    assert hub.documents == file.documents
    assert {question.text: set(question.answers) for question in hub.questions} == {
        question.text: set(question.answers) for question in file.questions
    }
    assert asked == [("owner/name", "distractor" if what == "hotpot" else None)]


def test_a_folder_is_read_as_a_data_set(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"text": f"essay {i}"}) for i in range(2)))
    assert Material(TaskOptions(haystack=str(tmp_path))).essay == ["essay", "0", "essay", "1"]


def test_the_hub_out_of_reach_is_a_skip(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def refused(*_):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "get_dataset_split_names", refused)
    with pytest.raises(SkipCell, match=r"'rajpurkar/squad_v2' cannot be loaded .*no network") as error:
        _ = Material(TaskOptions(squad="rajpurkar/squad_v2")).squad
    assert "hf download" in error.value.fix
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SkipCell, match="needs the package datasets"):
        _ = Material(TaskOptions(squad="rajpurkar/squad_v2")).squad
