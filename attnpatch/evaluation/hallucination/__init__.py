"""Hallucination of vision-language models: POPE, CHAIR, MME and AMBER as pure functions, and their files.

>>> pope.score({1: "Yes"}, [{"question_id": 1, "label": "yes"}])["accuracy"]
100.0
"""

from __future__ import annotations

from attnpatch.evaluation.hallucination import amber, amber_captions, chair, mme, pope
from attnpatch.evaluation.hallucination.amber_files import read_amber, read_lexicon
from attnpatch.evaluation.hallucination.coco import read_coco
from attnpatch.evaluation.hallucination.objects import Objects, own_objects, read_objects
from attnpatch.evaluation.hallucination.problems import Problems
from attnpatch.evaluation.hallucination.questions import Question
from attnpatch.evaluation.hallucination.reading import read_mme, read_pope

__all__ = [
    "Objects",
    "Problems",
    "Question",
    "amber",
    "amber_captions",
    "chair",
    "mme",
    "own_objects",
    "pope",
    "read_amber",
    "read_coco",
    "read_lexicon",
    "read_mme",
    "read_objects",
    "read_pope",
]
