"""The vision sandbox's scenes as tasks, on a random model of its architecture."""

from __future__ import annotations

import pytest
import torch

from attnpatch.evaluation import evaluate
from attnpatch.evaluation.tasks import TaskOptions, available, documents_hash
from attnpatch.evaluation.vision.prompts import Prompter
from attnpatch.evaluation.vision.scenes import caption_columns, caption_documents, pope_documents
from attnpatch.evaluation.vision.settings import VisionSettings
from attnpatch.sandbox.vision.model import build_model
from attnpatch.sandbox.vision.processor import build_processor
from attnpatch.sandbox.vision.scenes import scenes


@pytest.fixture(scope="module")
def eyes():
    torch.manual_seed(0)
    return build_model().eval(), build_processor()


def options(which: str = "dev") -> TaskOptions:
    return TaskOptions(vision=VisionSettings(scenes=which))


def test_questions_are_those_of_the_scenes(eyes):
    found = pope_documents("anti")(3, 0, Prompter(eyes[1]), options())
    expected = scenes("anti", 3, split="dev", seed=0)
    assert len(found) == sum(
        len(scene.questions(split)) for scene in expected for split in ("random", "popular", "adversarial")
    )
    assert {one.group for one in found} == {"random", "popular", "adversarial"}
    assert len({one.picture.name for one in found}) == 3
    first = expected[0].questions("random")[0]
    assert first.text in found[0].text
    assert found[0].references == (("yes" if first.answer else "no"),)
    assert found[0].picture.open().size == (48, 48)
    assert found.details["scenes"] == "dev"


def test_dev_and_test_are_different_documents(eyes):
    prompter = Prompter(eyes[1])
    hashes = {documents_hash(caption_documents(which)(2, seed, prompter, options(split)))
              for which in ("biased", "anti") for split in ("dev", "test") for seed in (0, 1)}  # fmt: skip
    assert len(hashes) == 8


def test_captions_by_hand():
    records = [
        {"prediction": "a red circle , a blue ring .", "references": ["circle", "ring"]},
        {"prediction": "a red circle , a red triangle , a blue triangle .", "references": ["circle", "square"]},
        {"prediction": "", "references": ["cross"]},
    ]
    found = caption_columns(records)
    assert found["chair_i %"]["sums"] == [0, 2, 0]
    assert found["chair_i %"]["weights"] == [2, 3, 0]
    assert found["chair_s %"]["sums"] == [0, 1, 0]
    assert (found["recall %"]["sums"], found["recall %"]["weights"]) == ([2, 1, 0], [2, 2, 1])


def test_all_scene_tasks_run(eyes):
    results = evaluate(*eyes, tasks=["scenes_pope", "scenes_caption"], methods=["sliding:window=8"], limit=2,
                       speed_rounds=1, generation_batch_size=4, vision={"scenes": "dev"})  # fmt: skip
    assert results.problems() == []
    assert results.run["unpatched"] is True
    tasks = {row.task for row in results.rows}
    assert tasks == {"scenes_pope_biased", "scenes_pope_anti", "scenes_caption_biased", "scenes_caption_anti"}
    shown = [f"{row.task} {row.metric}" for row in results.rows if row.method == "stock" and not row.detail]
    assert "scenes_pope_anti yes_ratio %" in shown
    assert "scenes_caption_anti length" in shown
    assert results.run["speed"][1]["prefill_of_stock"] > 0


def test_names(eyes):
    assert available(eyes[1].tokenizer, options(), eyes[1])["scenes_pope_anti"].own_length
