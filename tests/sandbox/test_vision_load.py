"""The packaged vision model: it loads, sees, hallucinates as its card says, and damage is reported in one sentence."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from attnpatch import sandbox
from attnpatch.sandbox.vision import COLOURS, SHAPES, scenes
from attnpatch.sandbox.vision.card import measure, table
from attnpatch.sandbox.vision.score import evaluate

TEXT = sandbox.path("text")
SCENES = 40  # per set, of the dev stream


@pytest.fixture(scope="module")
def vision():
    return sandbox.load("vision")


@pytest.fixture(scope="module")
def measured(vision):
    return {cell["set"]: cell for cell in measure(*vision, SCENES)}


@pytest.fixture(scope="module")
def card():
    return {cell["set"]: cell for cell in json.loads((sandbox.path("vision") / "card.json").read_text())}


def test_it_is_a_real_transformers_model_and_processor(vision):
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    model, processor = vision
    assert isinstance(model, LlavaForConditionalGeneration)
    assert isinstance(processor, LlavaProcessor)
    assert model.dtype == torch.float32
    assert not model.training
    assert sandbox.load("vision", dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_the_folder_is_small_and_complete():
    folder = sandbox.path("vision")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6
    for name in ("README.md", "card.json", "train_log.jsonl", "training_config.json", "generation_config.json"):
        assert (folder / name).is_file(), name
    assert not (folder / "checkpoint.pt").exists()


def test_captions_reach_the_card(measured, card):
    for which, slack in (("biased", 0.06), ("anti", 0.1)):
        assert measured[which]["recall"] == pytest.approx(card[which]["recall"], abs=slack)
        assert measured[which]["chair_i"] == pytest.approx(card[which]["chair_i"], abs=slack)


def test_questions_reach_the_card(measured, card):
    for which in ("biased", "anti"):
        for split in ("random", "popular", "adversarial"):
            assert measured[which][split]["accuracy"] == pytest.approx(card[which][split]["accuracy"], abs=0.12)


def test_it_hallucinates_the_usual_partner(measured):
    assert measured["anti"]["chair_i"] > measured["biased"]["chair_i"] + 0.05
    assert measured["anti"]["partner"] > 0.6
    assert measured["anti"]["adversarial"]["yes_rate"] > 0.5


def test_captions_follow_the_grammar(vision):
    model, processor = vision
    text = "USER: <image> Please describe this image in detail. ASSISTANT:"
    inputs = processor(images=scenes("biased", 1, split="dev")[0].image, text=text, return_tensors="pt")
    said = processor.decode(
        model.generate(**inputs, max_new_tokens=40, do_sample=False)[0][inputs["input_ids"].shape[1] :]
    )
    assert said.endswith(" . </s>")
    for part in said.removesuffix(" . </s>").split(" , "):
        article, colour, shape = part.split()
        assert article == "a"
        assert colour in COLOURS
        assert shape in SHAPES


def test_a_padded_batch_says_what_single_prompts_say(vision):
    from attnpatch.sandbox.vision.score import answers

    asked = [
        (scene, text)
        for scene in scenes("anti", 3, split="dev")
        for text in ("Is there a ring?", "What is in the image?")
    ]
    together = list(answers(*vision, asked, 30, batch=6))
    assert together == list(answers(*vision, asked, 30, batch=1))
    assert set(together[::2]) <= {"yes", "no"}


def test_it_answers_without_and_with_several_images(vision):
    model, processor = vision
    inputs = processor(text="USER: Is there a ring? ASSISTANT:", return_tensors="pt")
    assert torch.isfinite(model(**inputs).logits).all()
    images = [scene.image for scene in scenes("biased", 2, split="dev")]
    inputs = processor(
        images=images, text="USER: <image> <image> What is in the image? ASSISTANT:", return_tensors="pt"
    )
    assert torch.isfinite(model(**inputs).logits).all()


def test_the_card_shows_every_number(card):
    shown = table(list(card.values()))
    assert shown in (sandbox.path("vision") / "README.md").read_text()
    assert f"{card['anti']['chair_i']:.3f}" in shown


def test_no_scenes_are_refused(vision):
    with pytest.raises(ValueError, match="no scenes to score"):
        evaluate(*vision, [])


@pytest.fixture
def copied(tmp_path, monkeypatch):
    folder = tmp_path / "vision"
    shutil.copytree(sandbox.path("vision"), folder)
    monkeypatch.setattr(sandbox, "path", lambda name: folder)
    return folder


FILES = ["model.safetensors", "config.json", "tokenizer.json", "processor_config.json"]


@pytest.mark.parametrize("name", [*FILES, "chat_template.jinja"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(RuntimeError, match=rf"lacks .*{name}.*attnpatch sandbox train vision"):
        sandbox.load("vision")


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_reported(copied, name):
    whole = (copied / name).read_bytes()
    (copied / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeError, match="attnpatch sandbox train vision"):
        sandbox.load("vision")


def test_weights_that_are_not_the_models_are_refused(copied):
    shutil.copy(TEXT / "model.safetensors", copied / "model.safetensors")
    with pytest.raises(RuntimeError, match="does not hold the weights"):
        sandbox.load("vision")


def test_pillow_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(sandbox, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'attnpatch\[eval\]'"):
        sandbox.load("vision")
