"""The prompts on which plans without a router are ranked: `evals/prompts/sandbox.jsonl`.

`python -m attnpatch.evaluation.prompts > evals/prompts/sandbox.jsonl` writes it anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from attnpatch import sandbox
from attnpatch.evaluation.tasks.context import second_half
from attnpatch.evaluation.tasks.sandbox_tasks import as_document

RETRIEVAL = ("needle", "needles16", "repeated", "mqar", "chain", "copy", "passkey")
EARLY = ("mqar", "local")  # their first answers come too early to leave a prompt: the first half is one
LENGTH, PER_TASK = 512, 2


def sandbox_prompts() -> Iterator[list[int]]:
    """Token ids of the dev stream, which no task asks: retrieval and local text, up to where the answers begin."""
    for task in (*RETRIEVAL, "local"):
        for number, row in enumerate(sandbox.samples(task, LENGTH, PER_TASK, stream="dev")):
            whole = as_document(str(number), row)
            whole = second_half(whole) if task in EARLY else whole
            yield list(whole.input_ids[: whole.context])


def lines() -> Iterator[str]:
    """The file, line by line."""
    return (json.dumps({"input_ids": ids}, separators=(",", ":")) + "\n" for ids in sandbox_prompts())


if __name__ == "__main__":
    sys.stdout.writelines(lines())
