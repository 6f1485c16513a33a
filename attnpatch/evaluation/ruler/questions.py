"""qa_squad and qa_hotpot: a question, its documents, and others around them."""

from __future__ import annotations

from random import Random

from attnpatch.evaluation.ruler.datasets import Question, Questions
from attnpatch.evaluation.ruler.sample import Draft, Recipe, depth_of, drawn
from attnpatch.evaluation.ruler.templates import DOCUMENT, QUESTIONS


def order(found: Questions, seed: int) -> list[int]:
    """Which question a sample asks: the same ones at every length."""
    numbers = list(range(len(found.questions)))
    Random(f"{seed}/questions").shuffle(numbers)
    return numbers


def recipe(found: Questions, question: Question) -> Recipe:
    """The question's documents, then those close to them, then any others, shuffled; all again if they run out."""

    def draft(rng: Random, count: int) -> Draft:
        chosen = list(question.gold)
        more = list(question.more)
        rng.shuffle(more)
        chosen += more[: count - len(chosen)]
        if count > len(chosen):
            chosen += _others(rng, len(found.documents), set(chosen), count - len(chosen))
        rng.shuffle(chosen)
        parts = [
            DOCUMENT.format(number=number, document=found.documents[index]) for number, index in enumerate(chosen, 1)
        ]
        context = "\n\n".join(parts)
        gold = parts[chosen.index(question.gold[0])]
        depths = (depth_of(context, gold),) if found.with_gold else ()
        text = QUESTIONS.text.format(context=context, query=question.text)
        return Draft(text, QUESTIONS.prefix, question.answers, depths)

    return Recipe(draft, len(question.gold))


def _others(rng: Random, documents: int, taken: set[int], count: int) -> list[int]:
    """`count` documents that are not taken, and every document again where these are too few."""
    rest = [index for index in range(documents) if index not in taken]
    if count <= len(rest):
        return drawn(rng, rest, count)
    again = list(range(documents))
    return rest + (again * -(-count // documents))[: count - len(rest)]
