"""RULER's tasks for one tokenizer."""

from __future__ import annotations

import hashlib
from functools import partial

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.generation import score_generate
from attnpatch.evaluation.identity import tokenizer_fingerprint
from attnpatch.evaluation.ruler import counting, questions, tracking
from attnpatch.evaluation.ruler.build import Builder
from attnpatch.evaluation.ruler.cache import DocumentCache
from attnpatch.evaluation.ruler.material import Material
from attnpatch.evaluation.ruler.prompt import Prompts
from attnpatch.evaluation.ruler.sample import Recipe
from attnpatch.evaluation.ruler.specs import RULER_TASKS, Spec
from attnpatch.evaluation.tasks.base import Document, Generation, Task
from attnpatch.evaluation.tasks.options import TaskOptions

VERSION = 1  # of the generators: raise it when the documents of a seed change
_cache = DocumentCache()


def ruler_tasks(tokenizer, options: TaskOptions) -> dict[str, Task]:
    """All 13 tasks by name. What a task needs and does not have shows when its documents are built."""
    prompts, material = Prompts(tokenizer, options.chat_template), Material(options)
    found = {}
    for name, spec in RULER_TASKS.items():
        generation = Generation(tokenizer, spec.generated, spec.match)
        builder = Builder(name, _recipes(spec, prompts, material, options), prompts, generation)
        found[name] = Task(
            name,
            "ruler",
            VERSION,
            spec.description,
            f"string_match_{spec.match}",
            None,
            partial(_documents, builder, spec, material, options),
            mode="generate",
            scorer=partial(score_generate, generation),
            generation=generation,
        )
    return found


def _recipes(spec: Spec, prompts: Prompts, material: Material, options: TaskOptions):
    """`(length, index, seed) -> Recipe` of one task."""
    memo: dict = {}

    def recipe(length: int, index: int, seed: int) -> Recipe:
        if spec.needles is not None:
            words = material.words if "words" in spec.needs else None
            essay = material.essay if "essay" in spec.needs else []
            return spec.needles.recipe(words, essay, options.depth(index))
        if spec.name == "vt":
            if "vt" not in memo:
                memo["vt"] = tracking.recipe(prompts.tokens, spec.generated)
            return memo["vt"]
        if spec.name == "cwe":
            return counting.common_words(material.words, length)
        if spec.name == "fwe":
            return counting.frequent_words(length, spec.generated)
        found = getattr(material, spec.needs[0])
        if seed not in memo:
            memo[seed] = questions.order(found, seed)
        return questions.recipe(found, found.questions[memo[seed][index]])

    return recipe


def _documents(
    builder: Builder, spec: Spec, material: Material, options: TaskOptions, length: int, count: int, seed: int
) -> list[Document]:
    builder.prompts.check()
    try:
        made_of = [material.digest(name) for name in spec.needs]
    except SkipCell as missing:
        raise SkipCell(f"{builder.task}: {missing.reason}", missing.fix) from missing
    if spec.name.startswith("qa_"):
        there_are = len(getattr(material, spec.needs[0]).questions)
        if count > there_are:
            raise SkipCell(f"{builder.task} has {there_are} questions, {count} are asked for", "lower --limit")
    tokenizer = builder.prompts.tokenizer
    template = str(getattr(tokenizer, "chat_template", None)) if builder.prompts.chat else ""
    key = (
        VERSION,
        tokenizer_fingerprint(tokenizer),
        hashlib.sha256(template.encode()).hexdigest(),
        builder.task,
        length,
        seed,
        count,
        options.depths if spec.needles is not None and spec.needles.single else (),
        *made_of,
    )
    return _cache.get(key, lambda: builder.documents(length, count, seed))
