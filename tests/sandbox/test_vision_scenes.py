"""Scenes: reproducible, in disjoint streams, with the prior in the biased sets and none of it in the anti set."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from attnpatch.sandbox.vision import COLOURS, PARTNERS, SHAPES, SPLITS, mentions, scenes
from attnpatch.sandbox.vision.drawing import mask
from attnpatch.sandbox.vision.score import chair

SETS = [("train", "train"), ("biased", "dev"), ("biased", "test"), ("anti", "dev"), ("anti", "test")]


@pytest.mark.parametrize(("which", "split"), SETS)
def test_the_same_numbers_give_the_same_scenes(which, split):
    first, again = scenes(which, 4, split=split, seed=3), scenes(which, 2, split=split, seed=3)
    assert first[:2] == again
    assert np.array_equal(first[1].pixels, again[1].pixels)
    assert [scene.questions("random") for scene in first[:2]] == [scene.questions("random") for scene in again]
    assert scenes(which, 2, split=split, seed=3, start=2) == first[2:]
    assert scenes(which, 2, split=split, seed=4) != again


def test_streams_are_disjoint():
    seen = [scene for which, split in SETS for seed in (0, 1) for scene in scenes(which, 50, split=split, seed=seed)]
    assert len({scene.key for scene in seen}) == len(seen)
    assert len({scene.pixels.tobytes() for scene in seen}) == len(seen)


def test_training_never_sees_a_scene_twice():
    from attnpatch.sandbox.vision.rows import train_scenes

    keys = [scene.key for step in range(4) for rows in (8,) for scene in train_scenes(0, step, rows)]
    assert len(set(keys)) == len(keys)


def test_both_sets_hold_equally_many_objects():
    counts = {which: Counter(len(s.objects) for s in scenes(which, 1200, split="dev")) for which in ("biased", "anti")}
    for number in range(2, 6):
        for which in counts:
            assert abs(counts[which][number] / 1200 - 0.25) < 0.05
    assert set(counts["biased"]) == set(counts["anti"]) == {2, 3, 4, 5}


@pytest.mark.parametrize("seed", [0, 3])
def test_both_sets_of_test_scenes_hold_equally_many_objects(seed):
    biased, anti = ([len(s.objects) for s in scenes(which, 400, seed=seed)] for which in ("biased", "anti"))
    assert biased == anti
    assert Counter(biased) == {2: 100, 3: 100, 4: 100, 5: 100}


def test_partners_stand_together_unless_the_set_is_anti():
    for which in ("train", "biased"):
        found = [PARTNERS[s] in scene.shapes for scene in scenes(which, 500) for s in scene.shapes]
        assert 0.85 <= np.mean(found) <= 0.92
    for split in ("dev", "test"):
        assert not any(PARTNERS[s] in scene.shapes for scene in scenes("anti", 150, split=split) for s in scene.shapes)


def test_a_caption_names_every_object_in_reading_order():
    for scene in scenes("biased", 20):
        assert mentions(scene.caption) == [(thing.colour, thing.shape) for thing in scene.objects]
        cells = [thing.cell for thing in scene.objects]
        assert cells == sorted(set(cells))
        assert len({(thing.colour, thing.shape) for thing in scene.objects}) == len(cells)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("which", ["biased", "anti"])
def test_questions_are_balanced_and_true(which, split):
    for scene in scenes(which, 60, split="dev"):
        asked = scene.questions(split)
        assert sum(question.answer for question in asked) * 2 == len(asked) > 0
        assert len({question.shape for question in asked}) == len(asked)
        for question in asked:
            assert question.answer == (question.shape in scene.shapes)
            assert question.text == f"Is there a {question.shape} in the image?"


def test_adversarial_questions_ask_for_the_missing_partner():
    for scene in scenes("anti", 60, split="dev"):
        for question in scene.questions("adversarial"):
            assert question.answer or PARTNERS[question.shape] in scene.shapes


def test_popular_questions_ask_for_the_most_frequent_absent_shapes():
    frequency = Counter(shape for scene in scenes("train", 1000) for shape in scene.shapes)
    pairs = [frequency[shape] for shape in SHAPES]
    assert min(pairs[:2]) > max(pairs[2:4]) > max(pairs[4:])
    for scene in scenes("anti", 40, split="dev"):
        absent = [shape for shape in SHAPES if shape not in scene.shapes]
        asked = [question.shape for question in scene.questions("popular") if not question.answer]
        assert sorted(asked) == sorted(absent[: len(asked)])


def test_shapes_differ_and_stay_in_their_cell():
    drawn = [mask(shape, 0, 0, 6) for shape in SHAPES]
    for index, one in enumerate(drawn):
        assert 0.1 < one.mean() < 0.6
        assert all(np.abs(one - other).sum() > 12 for other in drawn[:index])
    assert mask("square", 1, 1, 6)[-1].sum() == 0
    assert mask("circle", 1, 0, 5).argmax(1).max() > mask("circle", -1, 0, 5).argmax(1).max()


def test_the_image_is_a_picture():
    scene = scenes("biased", 1)[0]
    assert scene.image.size == (48, 48)
    assert scene.image.mode == "RGB"
    assert len(COLOURS) == 4


def test_chair_counts_what_is_not_there():
    scene = scenes("anti", 1, split="dev")[0]
    there = scene.objects[0]
    told = f"A {there.colour} {there.shape}, a red {PARTNERS[there.shape]}."
    result = chair([told, scene.caption], [scene, scene])
    named = 2 + len(scene.objects)
    assert result["chair_i"] == 1 / named
    assert result["chair_s"] == 0.5
    assert result["partner"] == 1.0
    assert result["recall"] == (1 + len(scene.objects)) / (2 * len(scene.objects))
    assert chair(["", "nothing"], [scene, scene])["chair_i"] == 0.0


def test_at_most_one_object_of_a_scene_is_faint():
    drawn = scenes("anti", 200, split="dev")
    faint = [sum(thing.contrast < 0.35 for thing in scene.objects) for scene in drawn]
    assert set(faint) == {0, 1}
    assert 0.4 < np.mean(faint) < 0.6
    clear = [" , ".join(f"a {t.colour} {t.shape}" for t in scene.objects if t.contrast > 0.35) for scene in drawn]
    result = chair(clear, drawn)
    assert result["clear_recall"] == 1.0 > result["recall"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"which": "bias"}, r"unknown set of scenes 'bias'. Did you mean 'biased'\? Allowed: train, biased, anti"),
        ({"which": "anti", "split": "tset"}, r"unknown split 'tset'. Did you mean 'test'"),
        ({"which": "train", "split": "test"}, "'train' scenes have no split 'test'. Allowed: train"),
        ({"which": "anti", "split": "train"}, "'anti' scenes have no split 'train'. Allowed: dev, test"),
        ({"which": "anti", "count": -1}, "count must not be negative, got -1"),
        ({"which": "anti", "seed": -2}, "seed must not be negative, got -2"),
    ],
)
def test_bad_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        scenes(**{"count": 1, **arguments})
    with pytest.raises(ValueError, match=r"unknown split 'hard'\. Allowed: random, popular, adversarial"):
        scenes("anti", 1)[0].questions("hard")
