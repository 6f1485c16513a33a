"""How lm-eval's tasks are asked, and what a log-likelihood is decided on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from attnpatch.patching.method import Method

CONTEXT, WHOLE = "context", "whole"


class LmEvalSettings(BaseModel):
    """Options of lm-eval's tasks, named as in its own command line; all of them enter a cell's key."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    include_path: tuple[str, ...] = Field((), description="folders with task files of your own")
    num_fewshot: int | None = Field(None, ge=0, description="examples in the prompt; None: what each task says")
    system_instruction: str | None = Field(None, description="system text in front of every prompt")
    gen_kwargs: str | dict[str, Any] | None = Field(
        None, description="generation arguments over the tasks' own: temperature=0,max_gen_toks=32, or a mapping"
    )
    metadata: dict[str, Any] = Field({}, description="handed to tasks that make their own data")
    loglikelihood: Literal["auto", "context", "whole"] = Field(
        "auto", description="what scored continuations are decided on, see `Scoring`"
    )


@dataclass(frozen=True)
class Scoring:
    """How the log-likelihood of a continuation is computed under a method.

    loglikelihood:
        "whole": context and continuation are one prompt, so the method acts on the scored rows too. That is how
            "Stochastic Attention" (arXiv 2604.00754) scores, and what lm-eval does with any model.
        "context": the context alone is the prompt. What a method decides, it decides without the continuation, and
            the scored rows are decode rows; only the first scored token is predicted by a row of the prompt. The
            context of a rolling window (perplexity of running text) is its first token, so there nearly all rows
            are decode rows. The measured budget then counts prompt and scored rows together.
    padding: requests of different length may share a batch. lm-eval pads them on the right without a mask, which is
        harmless to methods that look back only, and changes the length that others see.
    """

    loglikelihood: str
    padding: bool

    def batch_size(self, asked: int) -> int:
        """1 for a method whose answer depends on what it shares a batch with, else what was asked for."""
        return asked if self.padding else 1


def scoring(methods: Iterable[Method | type[Method]], loglikelihood: str = "auto") -> Scoring:
    """The scoring for a stack of methods.

    "auto" is "context" as soon as one method reads the whole prompt before it decides, and "whole" otherwise: for
    those that only depend on the length, as in the stochastic paper, and for those where it makes no difference.
    """
    methods = list(methods)
    reads = any(method.reads_whole_prompt for method in methods)
    if loglikelihood == "auto":
        loglikelihood = CONTEXT if reads else WHOLE
    padding = not reads and not any(method.depends_on_length for method in methods)
    return Scoring(loglikelihood, padding)
