"""CHAIR and AMBER's captions against numbers computed by hand, and how objects are found in text."""

from __future__ import annotations

import pytest

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.hallucination import Objects, amber_captions, chair, own_objects, read_objects
from attnpatch.evaluation.hallucination.amber_captions import Annotation, Lexicon
from attnpatch.evaluation.hallucination.objects import OWN_TABLE

OBJECTS, _ = own_objects()


def test_the_table_has_the_80_objects_of_coco():
    assert len(OBJECTS.names) == 80
    assert OBJECTS.names[0] == "person"
    lines = [line.split(", ") for line in OWN_TABLE.read_text().splitlines()[1:]]
    words = [word for line in lines for word in line]
    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    "text, found",
    [
        ("A man and two women.", ["person", "person"]),
        ("People sit on benches near buses", ["person", "bench", "bus"]),
        ("Knives, glasses, loaves and toothbrushes", ["knife", "toothbrush"]),
        ("Two wine glasses", ["wine glass"]),
        ("ponies, puppies and mice", ["horse", "dog", "mouse"]),
        ("a traffic light, traffic lights", ["traffic light", "traffic light"]),
        ("a hot dog", ["hot dog"]),
        ("a dog and a hot-dog", ["dog", "hot dog"]),
        ("teddy bears on a bear", ["teddy bear", "bear"]),
        ("the man's cell phone", ["person", "cell phone"]),
        ("a baby elephant and an adult giraffe", ["elephant", "giraffe"]),
        ("a baby", ["person"]),
        ("a passenger jet, a passenger train, a passenger", ["airplane", "train", "person"]),
        ("a bow tie", ["tie"]),
        ("a toilet seat", ["toilet"]),
        ("the seat of the toilet", ["toilet"]),
        ("a seat at a table", ["chair", "dining table"]),
        ("SKIS and scissors", ["skis", "scissors"]),
        ("a pair of skis, one ski", ["skis", "skis"]),
        ("the sports balls", ["sports ball"]),
        ("a glass of water", []),
        ("", []),
    ],
)
def test_objects_in_text(text, found):
    assert OBJECTS.mentions(text) == found


def test_chair_by_hand():
    truth = {1: ["dog", "person"], 2: ["cat"], 3: ["pizza"]}
    given = {
        1: "A dog, another dog and a cat with a cat.",  # 4 mentions, 2 wrong, 1 of 2 objects
        2: "A cat.",  # 1 mention
        3: "",  # nothing
    }
    found = chair.score(given, truth)
    assert found["chair_i"] == pytest.approx(40)  # repeats count
    assert found["chair_s"] == pytest.approx(100 / 3)
    assert found["recall"] == pytest.approx(50)  # dog and cat of four
    assert found["length"] == pytest.approx((10 + 2 + 0) / 3)
    assert found["empty_rate"] == pytest.approx(100 / 3)


def test_chair_of_nothing_is_zero():
    found = chair.score({"a": "", "b": "a blue sky"}, {"a": ["dog"], "b": []})
    assert (found["chair_i"], found["chair_s"], found["recall"]) == (0, 0, 0)


def test_chair_truth_may_be_given_as_synonyms():
    assert chair.score({1: "a puppy"}, {1: ["puppies"]})["chair_i"] == 0


def test_chair_ids_that_do_not_match():
    with pytest.raises(UsageError, match="image '2': it has no caption"):
        chair.score({1: "a"}, {1: [], 2: []})
    with pytest.raises(UsageError, match="prediction '3': there is no image"):
        chair.score({1: "a", 3: "b"}, {1: []})
    found = chair.score({1: "a dog", 3: "b"}, {1: [], 2: []}, on_bad="skip")
    assert (found["captions"], found["left_out"]["count"], found["chair_i"]) == (1, 2, 100)


def test_another_table(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text("# ours\nring, hoop\n\nred box, crate\n")
    table, digest = read_objects(path)
    assert len(digest) == 64
    assert table.mentions("hoops, a red box, a box and rings in crates") == ["ring", "red box", "ring", "red box"]
    assert table.mentions("a baby dog, a passenger jet") == []  # phrases of things that it does not know
    path.write_text("ring, hoop\nhoop\n")
    assert read_objects(path)[0].mentions("a ring, a hoop") == ["ring", "hoop"]  # the last line counts
    with pytest.raises(UsageError, match="names no object"):
        read_objects(tmp_path / "empty.txt") if (tmp_path / "empty.txt").write_text("\n") else None
    with pytest.raises(UsageError, match="cannot be read"):
        read_objects(tmp_path / "missing.txt")


def test_objects_of_a_list():
    assert Objects([["ring"], ["disc", "disk"]]).mentions("a red disk , two rings") == ["disc", "ring"]


LEXICON = Lexicon({"dog": ["puppy"], "sky": ["cloud"], "boat": ["ship"], "sea": []}, {"picture"})
CLOSE = {frozenset(("hound", "dog")): 0.9, frozenset(("yacht", "boat")): 0.85, frozenset(("sea", "sky")): 0.8}


def similar(one: str, two: str) -> float:
    return 1.0 if one == two else CLOSE.get(frozenset((one, two)), 0.0)


@pytest.mark.parametrize(
    "nouns, found",
    [
        (["dog", "tree"], (1, 0, 1, 0)),  # tree is in no list: it does not count
        (["puppy", "dog"], (2, 0, 1, 0)),  # both cover the dog
        (["picture"], (0, 0, 0, 0)),
        (["boat"], (1, 1, 0, 1)),  # imagined, and people tend to
        (["ship"], (1, 1, 0, 1)),
        (["cloud"], (1, 1, 0, 0)),  # imagined by nobody else
        (["sea"], (1, 1, 0, 0)),  # .8 is not above .8
        ([], (0, 0, 0, 0)),
    ],
)
def test_amber_judges_nouns(nouns, found):
    one = amber_captions.judge(nouns, Annotation(("dog",), ("boat",)), LEXICON, similar)
    assert (one.nouns, one.wrong, one.covered, one.imagined) == found


def test_amber_similar_words_and_safe_words():
    lexicon = Lexicon({**LEXICON.association, "animal": ["hound"], "vessel": ["yacht"]}, {"sea"})
    annotation = Annotation(("dog",), ("boat",))
    one = amber_captions.judge(["hound", "yacht", "sea"], annotation, lexicon, similar)
    assert (one.nouns, one.wrong, one.covered, one.imagined) == (3, 1, 1, 1)


def test_amber_captions_by_hand():
    known = {1: Annotation(("dog", "sky"), ("boat",)), 2: Annotation(("sea",), ("dog", "boat"))}
    found = amber_captions.score({1: ["dog", "dog", "boat"], 2: ["sea"]}, known, LEXICON, similar)
    assert found["chair"] == 25
    assert found["cover"] == pytest.approx(200 / 3)
    assert found["hal"] == 50
    assert found["cog"] == pytest.approx(100 / 3)
    with pytest.raises(UsageError, match="caption '2': it has no prediction"):
        amber_captions.score({1: []}, known, LEXICON, similar)
