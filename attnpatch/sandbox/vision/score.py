"""What a model says about scenes: captions scored as CHAIR does, yes/no questions scored as POPE does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from attnpatch.sandbox.vision.questions import SPLITS
from attnpatch.sandbox.vision.scenes import CLEAR, Scene
from attnpatch.sandbox.vision.vocabulary import COLOURS, DESCRIBE, PARTNERS, SHAPES

LONGEST = 40  # new tokens of a caption; the longest one has 21


def mentions(caption: str) -> list[tuple[str | None, str]]:
    """The objects that a caption names, as (colour or None, shape), in order."""
    words = caption.lower().replace(",", " , ").replace(".", " . ").split()
    before = [None, *words]
    return [
        (last if last in COLOURS else None, word) for last, word in zip(before, words, strict=False) if word in SHAPES
    ]


def chair(captions: list[str], scenes: list[Scene]) -> dict[str, float]:
    """Hallucination of captions, by the shapes they name.

    Returns:
        `chair_i`: share of the named shapes that are not in the scene. `chair_s`: share of the captions with one.
        `partner`: share of the hallucinated shapes whose usual partner is in the scene (0.0 if there are none).
        `recall`: share of the objects, with colour, that are named. `clear_recall`: the same of those that are not
        faint. `shape_recall`: share of the kinds of shapes.
        `named`: mean number of objects per caption.
    """
    named = wrong = partner = sentences = kinds_found = kinds = 0
    found, objects = Counter(), Counter()  # by whether the object is clear
    for caption, scene in zip(captions, scenes, strict=True):
        told = mentions(caption)
        invented = [shape for _, shape in told if shape not in scene.shapes]
        named += len(told)
        wrong += len(invented)
        partner += sum(PARTNERS[shape] in scene.shapes for shape in invented)
        sentences += bool(invented)
        for thing in scene.objects:  # no two of a scene are alike
            clear = thing.contrast >= CLEAR[0]
            objects[clear] += 1
            found[clear] += (thing.colour, thing.shape) in told
        kinds_found += len({shape for _, shape in told} & set(scene.shapes))
        kinds += len(scene.shapes)
    return {
        "chair_i": wrong / max(named, 1),
        "chair_s": sentences / len(scenes),
        "partner": partner / max(wrong, 1),
        "recall": found.total() / objects.total(),
        "clear_recall": found[True] / max(objects[True], 1),
        "shape_recall": kinds_found / kinds,
        "named": named / len(scenes),
    }


def evaluate(model, processor, scenes: list[Scene], batch: int = 64) -> dict[str, Any]:
    """Captions (greedy) and the three POPE splits of `scenes`, every question a prompt of its own.

    Returns:
        What `chair` returns, and per split `{"accuracy", "yes_rate", "questions"}`.

    Raises:
        ValueError: no scenes.
    """
    if not scenes:
        raise ValueError("there are no scenes to score: give at least one")
    captions = list(answers(model, processor, ((scene, DESCRIBE[0]) for scene in scenes), LONGEST, batch))
    result: dict[str, Any] = chair(captions, scenes)
    for split in SPLITS:
        asked = [(scene, question) for scene in scenes for question in scene.questions(split)]
        said = answers(model, processor, ((scene, question.text) for scene, question in asked), 1, batch)
        pairs = [(text == "yes", question.answer) for text, (_, question) in zip(said, asked, strict=True)]
        result[split] = {
            "accuracy": sum(yes == truth for yes, truth in pairs) / len(pairs),
            "yes_rate": sum(yes for yes, _ in pairs) / len(pairs),
            "questions": len(pairs),
        }
    return result


def answers(model, processor, prompts: Iterable[tuple[Scene, str]], new_tokens: int, batch: int) -> Iterator[str]:
    """The greedy answer to every (scene, text)."""
    prompts = list(prompts)
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": scene.image}, {"type": "text", "text": text}]}]
            for scene, text in part
        ]
        inputs = processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(model.device)
        output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        yield from processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
