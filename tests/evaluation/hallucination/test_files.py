"""Annotation files: what is wrong is named with file and line, and stops the run or is left out and counted."""

from __future__ import annotations

import json

import pytest

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination import (
    Problems,
    own_objects,
    read_amber,
    read_coco,
    read_lexicon,
    read_mme,
    read_pope,
)

GOOD = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat in the image?", "label": "yes"}
OBJECTS, _ = own_objects()


def lines(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def read_both(read, message):
    """What is read when bad entries are skipped; reading stops with `message` otherwise."""
    with pytest.raises(UsageError, match=message):
        read(Problems())
    problems = Problems("skip")
    found = read(problems)
    assert len(problems.found) == 1
    return found


@pytest.mark.parametrize(
    "bad, message",
    [
        ('{"question_id": 2, "ima', "line 2: not JSON"),
        ({**GOOD, "question_id": None}, "line 2: it has no question_id"),
        ({"question_id": 3}, "line 2: it has no image, text, label"),
        ({**GOOD, "question_id": 2, "label": "maybe"}, "line 2: its label is 'maybe'"),
        (GOOD, "line 2: question_id 1 stands there twice"),
        ("[1]", "line 2: a list where an object"),
    ],
)
def test_pope_line(tmp_path, bad, message):
    path = lines(tmp_path / "pope.json", GOOD, bad, "", {**GOOD, "question_id": 5, "label": "No"})
    found = read_both(lambda problems: read_pope(path, "random", problems), message)
    assert [(one.id, one.label, one.group) for one in found] == [
        ("random/1", "yes", "random"),
        ("random/5", "no", "random"),
    ]


def test_a_list_in_place_of_lines(tmp_path):
    path = tmp_path / "pope.json"
    path.write_text(json.dumps([GOOD, "x", {**GOOD, "question_id": 2}]))
    assert len(read_both(lambda problems: read_pope(path, "random", problems), "entry 2: a str where")) == 2


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_pope(tmp_path / "none.json", "random", Problems())
    (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not UTF-8"):
        read_pope(tmp_path / "x.json", "random", Problems())


def test_mme_folder(tmp_path):
    lines(tmp_path / "existence.txt", "a.jpg\tIs it?\tYes", "a.jpg\tIs it not?\tNo", "b.jpg\tIs it?\tYes")
    lines(tmp_path / "count.txt", "a.jpg\tTwo?\tYes", "a.jpg\tThree?\tNo")
    found = read_mme(tmp_path, Problems())
    assert [one.id for one in found][:3] == ["count/a.jpg#1", "count/a.jpg#2", "existence/a.jpg#1"]
    assert found[0].group == "count"


@pytest.mark.parametrize(
    "bad, message",
    [
        ("c.jpg\tIs it?", "existence.txt, line 2: 2 fields"),
        ("a.jpg\tIs it?\tYes", "line 2: 'a.jpg' of existence has two questions already, or this very one"),
        ("a.jpg\tReally?\tperhaps", "line 2: its label is 'perhaps'"),
    ],
)
def test_mme_line(tmp_path, bad, message):
    lines(tmp_path / "existence.txt", "a.jpg\tIs it?\tYes", bad, "a.jpg\tIs it not?\tNo")
    assert len(read_both(lambda problems: read_mme(tmp_path, problems), message)) == 2


def test_mme_rows(tmp_path):
    row = {"category": "OCR", "image": "a.jpg", "question": "A?", "answer": "Yes"}
    path = lines(tmp_path / "mme.jsonl", row, {**row, "question": "B?", "answer": "No"}, {**row, "question": "C?"})
    assert len(read_both(lambda problems: read_mme(path, problems), "has two questions already")) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"holds no <subtask>\.txt"):
        read_mme(tmp_path / "empty", Problems())


@pytest.fixture
def amber_folder(tmp_path):
    (tmp_path / "query").mkdir()
    annotations = [
        {"id": 1, "type": "generative", "truth": ["dog"], "hallu": ["cat"]},
        {"id": 2, "type": "discriminative-hallucination", "truth": "no"},
        {"id": 3, "type": "relation", "truth": "yes"},
    ]
    queries = [{"id": one["id"], "image": "AMBER_1.jpg", "query": f"Q{one['id']}"} for one in annotations]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    (tmp_path / "query" / "query_all.json").write_text(json.dumps(queries[::-1]))
    (tmp_path / "relation.json").write_text(json.dumps({"dog": ["puppy"]}))
    (tmp_path / "safe_words.txt").write_text("picture\nimage\n")
    return tmp_path


def test_amber_files(amber_folder):
    questions, captions = read_amber(amber_folder, Problems())
    assert [(one.id, one.text, one.label, one.group) for one in questions] == [
        ("2", "Q2", "no", "existence"),
        ("3", "Q3", "yes", "relation"),
    ]
    assert (captions[0].text, captions[0].annotation.hallu) == ("Q1", ("cat",))
    lexicon = read_lexicon(amber_folder)
    assert (lexicon.words, lexicon.safe) == ({"dog", "puppy"}, {"picture", "image"})


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"id": 2, "type": "relation", "truth": "no"}, "entry 4: id 2 stands there twice"),
        ({"id": 9, "type": "relation", "truth": "no"}, "entry 4: id 9 has no query"),
        ({"id": 9, "type": "relations", "truth": "no"}, "entry 4: its type is 'relations'"),
    ],
)
def test_amber_entry(amber_folder, bad, message):
    path = amber_folder / "annotations.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), bad]))
    questions, captions = read_both(lambda problems: read_amber(amber_folder, problems), message)
    assert (len(questions), len(captions)) == (2, 1)


def test_amber_query_without_annotation(amber_folder):
    path = amber_folder / "query" / "query_all.json"
    more = {"id": 9, "image": "AMBER_1.jpg", "query": "Q9"}
    path.write_text(json.dumps([more, *json.loads(path.read_text())]))
    message = r"query_all\.json, entry 1: id 9 has no annotation"
    questions, captions = read_both(lambda problems: read_amber(amber_folder, problems), message)
    assert (len(questions), len(captions)) == (2, 1)


def coco(folder, marks, captions, images=(1, 2)):
    named = [{"id": i, "file_name": f"COCO_val2014_{i:012}.jpg"} for i in images]
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    (folder / "instances_val2014.json").write_text(
        json.dumps(
            {
                "images": named,
                "categories": categories,
                "annotations": [{"image_id": i, "category_id": c} for i, c in marks],
            }
        )
    )
    told = {"images": named, "annotations": [{"image_id": i, "caption": text} for i, text in captions]}
    (folder / "captions_val2014.json").write_text(json.dumps(told))
    return folder


def test_coco_truth_is_marked_or_told(tmp_path):
    coco(tmp_path, [(1, 17), (1, 17)], [(1, "A kitten on a couch."), (1, "two cats"), (2, "Nothing here.")])
    found = read_coco(tmp_path, OBJECTS, Problems())
    assert found["1"].truth == {"cat", "couch"}
    assert found["2"].truth == set()  # nothing marked in it, but the file knows it
    assert found["1"].file_name == "COCO_val2014_000000000001.jpg"


def test_coco_problems(tmp_path):
    coco(tmp_path, [(1, 17)], [(1, "a cat")])
    found = read_both(lambda problems: read_coco(tmp_path, OBJECTS, problems), "000000000002.jpg has no captions")
    assert list(found) == ["1"]
    coco(tmp_path, [(1, 17), (9, 17)], [(1, "a cat"), (2, "a dog")])
    read_both(lambda problems: read_coco(tmp_path, OBJECTS, problems), "entry 2 of annotations: image 9 is not among")
    coco(tmp_path, [(1, 99)], [(1, "a cat"), (2, "a dog")])
    read_both(lambda problems: read_coco(tmp_path, OBJECTS, problems), "category 99 is not among")
    (tmp_path / "captions_val2014.json").unlink()
    with pytest.raises(UsageError, match=r"holds no captions_\*\.json"):
        read_coco(tmp_path, OBJECTS, Problems("skip"))
    (tmp_path / "instances_val2014.json").write_text('{"images": [\n')
    with pytest.raises(UsageError, match="line 2: not JSON"):
        read_coco(tmp_path, OBJECTS, Problems())


@pytest.mark.parametrize(
    "file, part, bad, message",
    [
        ("instances", "images", {"id": 9}, "entry 3 of images: it has no file_name"),
        ("instances", "images", {"file_name": "x.jpg"}, "entry 3 of images: it has no id"),
        ("instances", "images", "x.jpg", "entry 3 of images: a str where an object with id, file_name should stand"),
        ("instances", "categories", {"id": 3}, "entry 3 of categories: it has no name"),
        ("instances", "categories", None, "entry 3 of categories: a NoneType where an object with id, name"),
        ("instances", "annotations", [1], "entry 2 of annotations: a list where an object with image_id, category_id"),
        ("instances", "annotations", {"image_id": 1}, "entry 2 of annotations: it has no category_id"),
        ("instances", "annotations", {}, "entry 2 of annotations: it has no image_id, category_id"),
        ("instances", "annotations", {"image_id": 1, "category_id": [17]}, r"category \[17\] is not among"),
        ("captions", "images", {"id": 9}, "entry 3 of images: it has no file_name"),
        ("captions", "annotations", [1], "entry 3 of annotations: a list where an object with image_id, caption"),
        ("captions", "annotations", {"image_id": 1}, "entry 3 of annotations: it has no caption"),
        ("captions", "annotations", {"caption": "a cat"}, "entry 3 of annotations: it has no image_id"),
        ("captions", "annotations", {"image_id": 1, "caption": 5}, "entry 3 of annotations: its caption is 5, not"),
    ],
)
def test_coco_entry(tmp_path, file, part, bad, message):
    coco(tmp_path, [(1, 17)], [(1, "a cat"), (2, "a dog")])
    path = tmp_path / f"{file}_val2014.json"
    content = json.loads(path.read_text())
    content[part].append(bad)
    path.write_text(json.dumps(content))
    found = read_both(lambda problems: read_coco(tmp_path, OBJECTS, problems), rf"{file}_val2014\.json, .*{message}")
    assert {name: picture.truth for name, picture in found.items()} == {"1": {"cat"}, "2": {"dog"}}
