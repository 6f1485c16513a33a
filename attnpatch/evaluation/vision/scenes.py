"""The scenes of the vision sandbox as tasks: POPE and captions where a language prior helps, and where it misleads."""

from __future__ import annotations

import hashlib
from typing import Any

from attnpatch.evaluation.hallucination.objects import Objects
from attnpatch.evaluation.hallucination.pope import SPLITS
from attnpatch.evaluation.tasks.base import Documents
from attnpatch.evaluation.tasks.options import TaskOptions
from attnpatch.evaluation.vision import benchmarks as b
from attnpatch.evaluation.vision.building import Asked, documents
from attnpatch.evaluation.vision.documents import Picture
from attnpatch.evaluation.vision.prompts import Prompter
from attnpatch.sandbox.vision.scenes import Scene, scenes
from attnpatch.sandbox.vision.vocabulary import DESCRIBE, SHAPES

WHICH = ("biased", "anti")
TOKENS = 48  # of a caption: twice what five objects take, so that there is room to invent some


def pope_documents(which: str) -> b.Build:
    """All questions of all three splits about `limit` scenes."""

    def build(limit: int, seed: int, prompter: Prompter, options: TaskOptions) -> Documents:
        shown = _scenes(which, limit, seed, options)
        asked = [
            Asked(f"{split}/{name}/{number}", name, question.text, ("yes" if question.answer else "no",), split)
            for split in SPLITS
            for name, (scene, _) in shown.items()
            for number, question in enumerate(scene.questions(split))
        ]
        details = {"max_new_tokens": options.vision.answer_tokens, "scenes": options.vision.scenes}
        return documents(asked, lambda one: shown[one.image][1], prompter, details)

    return build


def caption_documents(which: str) -> b.Build:
    """One caption for each of `limit` scenes."""

    def build(limit: int, seed: int, prompter: Prompter, options: TaskOptions) -> Documents:
        shown = _scenes(which, limit, seed, options)
        asked = [Asked(name, name, DESCRIBE[0], tuple(sorted(scene.shapes))) for name, (scene, _) in shown.items()]
        details = {"max_new_tokens": TOKENS, "scenes": options.vision.scenes}
        return documents(asked, lambda one: shown[one.image][1], prompter, details)

    return build


def caption_columns(records: b.Records) -> dict[str, Any]:
    """CHAIR with the shapes as objects."""
    return b.caption_columns(records, Objects([shape] for shape in SHAPES))


def _scenes(which: str, count: int, seed: int, options: TaskOptions) -> dict[str, tuple[Scene, Picture]]:
    found = scenes(which, count, split=options.vision.scenes, seed=seed)
    named = {f"{which}/{options.vision.scenes}/{seed}/{number}": scene for number, scene in enumerate(found)}
    return {name: (scene, _picture(name, scene)) for name, scene in named.items()}


def _picture(name: str, scene: Scene) -> Picture:
    return Picture(name, hashlib.sha256(scene.pixels.tobytes()).hexdigest(), lambda: scene.image)
