"""lm-eval (EleutherAI's harness) on patched models: its tasks in our cells, and our methods in its command line.

>>> from lm_eval.models.huggingface import HFLM
>>> lm = HFLM(pretrained=patched_model, tokenizer=tokenizer)  # works as it is: a patched model is a model
>>> lm = AttnPatchLM("Qwen/Qwen3-8B", method="stochastic", method_args="window=1024;seed=0")

`AttnPatchLM` adds what a wrapper from outside cannot know: methods that read the whole prompt decide on the context
of a scored continuation and never on the continuation itself. Nothing here imports lm_eval before it is used.
"""

from __future__ import annotations

from typing import Any

from attnpatch.evaluation.lm_eval.settings import LmEvalSettings

__all__ = ["AttnPatchLM", "LmEvalSettings", "register"]

MODEL = "attnpatch"


def register() -> None:
    """Make `--model attnpatch` known to lm-eval in this process.

    Raises:
        ImportError: lm-eval is not installed; names the extra.
    """
    from attnpatch.evaluation.lm_eval.extra import require_lm_eval

    require_lm_eval()
    from lm_eval.api.registry import model_registry

    if MODEL not in model_registry:
        model_registry.register(MODEL, target="attnpatch.evaluation.lm_eval.model:AttnPatchLM")


def __getattr__(name: str) -> Any:
    if name == "AttnPatchLM":
        from attnpatch.evaluation.lm_eval.model import AttnPatchLM

        return AttnPatchLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
