"""The vision sandbox: scenes of coloured shapes with a planted language prior, and the training of the packaged model.

>>> scene = scenes("anti", 1, split="dev")[0]
>>> scene.image, scene.caption, scene.questions("adversarial")
"""

from __future__ import annotations

from attnpatch.sandbox.vision.questions import SPLITS, Question
from attnpatch.sandbox.vision.scenes import WHICH, Scene, Thing, scenes
from attnpatch.sandbox.vision.score import mentions
from attnpatch.sandbox.vision.vocabulary import ASK, COLOURS, DESCRIBE, PARTNERS, SHAPES

__all__ = [
    "ASK",
    "COLOURS",
    "DESCRIBE",
    "PARTNERS",
    "SHAPES",
    "SPLITS",
    "WHICH",
    "Question",
    "Scene",
    "Thing",
    "mentions",
    "scenes",
]
