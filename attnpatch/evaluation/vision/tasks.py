"""The tasks with pictures, for one processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.hallucination.pope import SPLITS
from attnpatch.evaluation.tasks.base import Documents, Task
from attnpatch.evaluation.tasks.options import TaskOptions
from attnpatch.evaluation.vision import benchmarks as b
from attnpatch.evaluation.vision import scenes as s
from attnpatch.evaluation.vision.prompts import Prompter
from attnpatch.evaluation.vision.scoring import score_pictures

VERSION = 1  # raise it when the documents of a seed change
SOURCE, MODE, METRIC = "vision", "generate_picture", "hallucination"


@dataclass(frozen=True)
class Spec:
    """One task.

    columns: how records are scored, or, with `by_options`, what makes that from the options. captions: takes the
    tokens of a caption, not those of an answer. tokens: new tokens at most, where no option says so.
    """

    description: str
    documents: b.Build
    columns: Callable
    captions: bool = False
    by_options: bool = False
    tokens: int | None = None


_pope = "POPE: is an object in the picture? yes/no questions, limit per split; needs --pope, --image-root"
_chair = "CHAIR: objects in captions that are not in the picture; needs --coco, --image-root"
_mme = "MME: two yes/no questions a picture, points per subtask, limit per subtask; needs --mme, --image-root"
_amber = "AMBER: yes/no questions scored for the answer No, limit per type; needs --amber, --image-root"
_nouns = "AMBER: nouns in captions that are not in the picture; needs --amber, --image-root, attnpatch[amber]"
_scenes = "on the vision sandbox's {} scenes, limit in scenes"


def _on_scenes(which: str) -> dict[str, Spec]:
    told = _scenes.format(which)
    captions = Spec(f"CHAIR {told}", s.caption_documents(which), s.caption_columns, tokens=s.TOKENS)
    return {
        f"scenes_pope_{which}": Spec(f"POPE {told}; mean of its splits", s.pope_documents(which), b.pope_columns),
        f"scenes_caption_{which}": captions,
    }


SPECS = {
    "pope": Spec(_pope + "; mean of the three splits", b.pope_documents(SPLITS), b.pope_columns),
    **{f"pope_{one}": Spec(f"{_pope}; {one} split", b.pope_documents((one,)), b.pope_columns) for one in SPLITS},
    "chair": Spec(_chair, b.chair_documents, b.chair_columns, captions=True, by_options=True),
    "mme": Spec(_mme, b.mme_documents, b.mme_columns),
    "amber_questions": Spec(_amber, b.amber_documents, b.amber_columns),
    "amber_captions": Spec(_nouns, b.amber_caption_documents, b.amber_caption_columns, captions=True, by_options=True),
    **{name: spec for which in s.WHICH for name, spec in _on_scenes(which).items()},
}
_by_set = {kind: tuple(f"scenes_{kind}_{which}" for which in s.WHICH) for kind in ("pope", "caption")}
GROUPS = {
    "amber": (("amber_questions", "amber_captions"), "AMBER: its yes/no questions and its captions"),
    "scenes_pope": (_by_set["pope"], "POPE on the vision sandbox: biased and anti scenes"),
    "scenes_caption": (_by_set["caption"], "CHAIR on the vision sandbox: biased and anti scenes"),
}


def picture_tasks(processor: Any, options: TaskOptions, missing: str | None = None) -> dict[str, Task]:
    """All tasks with pictures by name. Without a processor they are skipped when asked; `missing` says why."""
    prompter = None if processor is None else Prompter(processor, options.vision.chat_template)
    return {name: _task(name, spec, prompter, options, missing) for name, spec in SPECS.items()}


def _task(name: str, spec: Spec, prompter: Prompter | None, options: TaskOptions, missing: str | None) -> Task:
    def build(length: None, count: int, seed: int) -> Documents:
        if prompter is None:
            raise SkipCell(
                missing or "the model takes no pictures",
                "take a vision-language model, such as llava-hf/llava-1.5-7b-hf or sandbox:vision",
            )
        return spec.documents(count, seed, prompter, options)

    settings = options.vision
    tokens = spec.tokens or (settings.caption_tokens if spec.captions else settings.answer_tokens)
    return Task(
        name,
        SOURCE,
        VERSION,
        spec.description,
        METRIC,
        None,
        build,
        mode=MODE,
        scorer=None if prompter is None else partial(score_pictures, prompter, tokens),
        own_length=True,
        columns=spec.columns(options) if spec.by_options else spec.columns,
        inputs=None if prompter is None else lambda document: prompter.inputs([document]),
    )
