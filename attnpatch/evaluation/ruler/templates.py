"""RULER's prompts as published.

These texts come from NVIDIA/RULER (https://github.com/NVIDIA/RULER), Copyright (c) 2024, NVIDIA CORPORATION,
Apache License 2.0; the paper is arXiv 2404.06654. The code around them is our own.

A prefix is the start of the answer; it stands behind the chat template, not in the user's turn.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Template:
    """The user's turn and the start of the answer, with `{fields}` to be filled."""

    text: str
    prefix: str


NEEDLES = Template(
    "Some special magic {type} are hidden within the following text. Make sure to memorize it. I will quiz you about "
    "the {type} afterwards.\n{context}\nWhat are all the special magic {type} for {query} mentioned in the provided "
    "text?",
    " The special magic {type} for {query} mentioned in the provided text are",
)
TRACKING = Template(
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: "
    "Find all variables that are assigned the value {query} in the text above.",
    " Answer: According to the chain(s) of variable assignment in the text above, {variables} variables are assigned "
    "the value {query}, they are: ",
)
COMMON_WORDS = Template(
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list?",
    " Answer: The top 10 words that appear most often in the list are:",
)
FREQUENT_WORDS = Template(
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
    "appeared coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What "
    "are the three most frequently appeared words in the above coded text?",
    " Answer: According to the coded text above, the three most frequently appeared words are:",
)
QUESTIONS = Template(
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "The following are given documents.\n\n{context}\n\nAnswer the question based on the given documents. Only give "
    "me the answer and do not output any other words.\n\nQuestion: {query}",
    " Answer:",
)

NEEDLE = "One of the special magic {type} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DOCUMENT = "Document {number}:\n{document}"


def singular(template: Template) -> Template:
    """The needle template for one value: `Some ... are` becomes `A ... is`."""

    def rewrite(text: str) -> str:
        return text.replace("Some", "A").replace("are all", "is").replace("are", "is")

    return Template(rewrite(template.text), rewrite(template.prefix))
