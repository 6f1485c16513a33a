"""Small models that were really trained, shipped with the package so that everything runs without a download.

>>> model, tokenizer = load("text")
>>> model, processor = load("vision")

They exercise mechanisms. Their numbers do not predict what a method does to a large model.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from attnpatch.sandbox.text.data import TASKS, TaskSpec, samples
from attnpatch.sandbox.text.rows import Sample

__all__ = ["MODELS", "TASKS", "Sample", "TaskSpec", "load", "path", "samples"]

MODELS = ("text", "vision")
_NEEDED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_MORE = {"text": (), "vision": ("processor_config.json", "chat_template.jinja")}
_MARK = {"text": "model.embed_tokens.weight", "vision": "multi_modal_projector.linear_1.weight"}


def path(name: str) -> Path:
    """The folder of a packaged model, loadable with `from_pretrained`.

    Raises:
        ValueError: unknown name.
    """
    if name not in MODELS:
        close = get_close_matches(str(name), MODELS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown sandbox model {name!r}.{hint} Allowed: {', '.join(MODELS)}")
    return Path(__file__).parent / "weights" / name


def load(name: str, *, dtype=None):
    """Load a packaged model, on the CPU and in eval mode: `(model, tokenizer)`, or `(model, processor)` for vision.

    Args:
        name: "text" or "vision".
        dtype: torch dtype of the model; float32 if None (the file holds bfloat16).

    Raises:
        ValueError: unknown name.
        RuntimeError: a file of the model is missing or damaged; says which one and how to restore it.
        ImportError: "vision" needs Pillow, which is not installed.
    """
    folder = path(name)
    restore = f"Restore it with `attnpatch sandbox train {name}`, or reinstall attnpatch."
    for file in (*_NEEDED, *_MORE[name]):
        if not (folder / file).is_file():
            raise RuntimeError(f"the sandbox model {name!r} lacks {folder / file}. {restore}")
    _check_weights(folder / "model.safetensors", _MARK[name], restore)
    if name == "vision" and find_spec("PIL") is None:
        raise ImportError("the sandbox model 'vision' reads images with Pillow: pip install 'attnpatch[eval]'")

    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    classes = {"text": (AutoTokenizer, AutoModelForCausalLM), "vision": (AutoProcessor, AutoModelForImageTextToText)}
    reader_class, model_class = classes[name]
    try:
        reader = reader_class.from_pretrained(folder)
        model = model_class.from_pretrained(folder, dtype=dtype or torch.float32)
    except Exception as error:  # a damaged file surfaces as one of a dozen types, none of which names it
        raise RuntimeError(f"the sandbox model {name!r} in {folder} cannot be loaded: {error}. {restore}") from error
    return model.eval(), reader


def _check_weights(file: Path, mark: str, restore: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as weights:
            names = list(weights.keys())
    except (SafetensorError, OSError) as error:
        raise RuntimeError(f"{file} is damaged: {error}. {restore}") from error
    if mark not in names:
        raise RuntimeError(f"{file} does not hold the weights of the sandbox model. {restore}")
