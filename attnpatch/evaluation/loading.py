"""Models from the Hub, from a folder or from the sandbox: safetensors only, remote code off unless asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from attnpatch import sandbox
from attnpatch.evaluation.environment import device_name
from attnpatch.evaluation.errors import LoadingError, UsageError
from attnpatch.evaluation.identity import (
    ModelIdentity,
    folder_fingerprint,
    model_fingerprint,
)
from attnpatch.evaluation.processors import is_processor, load_processor, takes_pictures, text_side_fingerprint
from attnpatch.patching.errors import did_you_mean

SANDBOX = "sandbox:"
PACKAGED = " or ".join(SANDBOX + name for name in sandbox.MODELS)
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class ModelRequest:
    """What to load and how. dtype None: float32 on a CPU, the checkpoint's own on a GPU."""

    model: str = "sandbox:text"
    revision: str | None = None
    dtype: str | None = None
    device_map: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False


def model_name(model) -> str:
    """The id a model in memory was loaded from, `sandbox:text` for the packaged one, else its class."""
    name = getattr(model.config, "_name_or_path", "")
    for packaged in sandbox.MODELS:
        if name and Path(name) == sandbox.path(packaged):
            return SANDBOX + packaged
    return name or type(model).__name__


class MemorySource:
    """A model that is loaded already, with its tokenizer, or with its processor if it takes pictures."""

    def __init__(self, model, tokenizer) -> None:
        self.processor = tokenizer if is_processor(tokenizer) else None
        self.no_processor = None if self.processor else "a tokenizer was given for it, not a processor"
        self.model, self.tokenizer = model, tokenizer if self.processor is None else tokenizer.tokenizer
        self.config = model.config

    @cached_property
    def identity(self) -> ModelIdentity:
        return ModelIdentity(
            id=model_name(self.model),
            revision=None,
            fingerprint=model_fingerprint(self.model),
            tokenizer=text_side_fingerprint(self.tokenizer, self.processor),
            dtype=str(self.model.dtype).removeprefix("torch."),
            attn_implementation=str(self.config._attn_implementation),
            device=str(self.model.device.type),
        )

    def load(self):
        return self.model


class CheckpointSource:
    """A checkpoint: config, tokenizer and processor at once, weights when `load()` is called.

    processor: None for a model that takes no pictures, and where it cannot be loaded; `no_processor` says why.

    Raises:
        LoadingError: whatever keeps the checkpoint from being read, with the fix.
        UsageError: an unknown dtype or sandbox model.
    """

    def __init__(self, request: ModelRequest) -> None:
        self.request = request
        self.dtype_name = _dtype(request.dtype)
        self.path = _locate(request.model)
        if isinstance(self.path, Path):
            _check_folder(self.path)
        from transformers import AutoConfig, AutoTokenizer

        self.config = self._call(AutoConfig.from_pretrained, "its config")
        if not request.trust_remote_code and getattr(self.config, "auto_map", None):
            raise LoadingError(
                f"model {request.model!r} brings its own Python code, which is not run by default. Read the code, "
                "then pass --trust-remote-code."
            )
        self.processor, self.no_processor = load_processor(str(self.path), self.config, **self._common)
        if self.processor is not None:
            self.tokenizer = self.processor.tokenizer
        else:
            self.tokenizer = self._call(AutoTokenizer.from_pretrained, "its tokenizer")

    @cached_property
    def identity(self) -> ModelIdentity:
        commit = getattr(self.config, "_commit_hash", None)
        local = isinstance(self.path, Path)
        return ModelIdentity(
            id=self.request.model,
            revision=self.request.revision if local else commit or self.request.revision,
            fingerprint=folder_fingerprint(self.path) if local else f"commit {commit}",
            tokenizer=text_side_fingerprint(self.tokenizer, self.processor),
            dtype=self.dtype,
            attn_implementation=self.request.attn_implementation or "default",
            device=self.request.device_map or device_name(),
        )

    @property
    def dtype(self) -> str:
        """What the weights are loaded as."""
        if self.dtype_name is not None:
            return self.dtype_name
        if not torch.cuda.is_available():
            return "float32"
        return str(getattr(self.config, "dtype", None) or torch.float32).removeprefix("torch.")

    def load(self):
        """The model in eval mode. Raises LoadingError."""
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

        factory = AutoModelForImageTextToText if takes_pictures(self.config) else AutoModelForCausalLM
        extra: dict[str, Any] = {"dtype": getattr(torch, self.identity.dtype), "use_safetensors": True}
        if self.request.device_map:
            extra["device_map"] = self.request.device_map
        if self.request.attn_implementation:
            extra["attn_implementation"] = self.request.attn_implementation
        model, report = self._call(factory.from_pretrained, "its weights", output_loading_info=True, **extra)
        missing = sorted(report.get("missing_keys", ()))
        if missing:
            raise LoadingError(
                f"model {self.request.model!r}: {len(missing)} weights are not in the checkpoint and would be random "
                f"({', '.join(missing[:3])}). Check that the files belong to this config."
            )
        if not self.request.device_map and torch.cuda.is_available():
            model = model.to("cuda")
        return model.eval()

    @property
    def _common(self) -> dict[str, Any]:
        revision = {} if self.request.revision is None else {"revision": self.request.revision}
        return {"trust_remote_code": self.request.trust_remote_code, **revision}

    def _call(self, function, what: str, **extra: Any):
        try:
            return function(str(self.path), **self._common, **extra)
        except Exception as error:  # a dozen types; each becomes one sentence with the fix
            raise LoadingError(_explain(self.request, what, error)) from error


def _dtype(name: str | None) -> str | None:
    if name is None or name == "auto":
        return None
    if name not in DTYPES:
        raise UsageError(f"unknown dtype {name!r}.{did_you_mean(name, DTYPES)} Allowed: auto, {', '.join(DTYPES)}.")
    return str(DTYPES[name]).removeprefix("torch.")


def is_local(model: str) -> bool:
    """True for a folder (also one that is not there) and for the sandbox, False for an id on the Hub."""
    try:
        return isinstance(_locate(model), Path)
    except LoadingError:
        return True


def _locate(model: str) -> Path | str:
    """A folder, or the id of a Hub repository."""
    if model.startswith(SANDBOX):
        try:
            folder = sandbox.path(model.removeprefix(SANDBOX))
        except ValueError as error:
            raise UsageError(str(error)) from error
        if not folder.is_dir():
            raise LoadingError(f"the weights of {model!r} are not at {str(folder)!r}. Reinstall attnpatch.")
        return folder
    folder = Path(model).expanduser()
    if folder.exists():
        return folder
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model
    if looks_like_path:
        raise LoadingError(f"model folder {model!r} does not exist. Give a folder, a Hub id or {PACKAGED}.")
    if "/" not in model:
        hint = did_you_mean(model, [SANDBOX + name for name in sandbox.MODELS])
        raise LoadingError(f"model {model!r} is neither a folder nor a Hub id (owner/name) nor {PACKAGED}.{hint}")
    return model


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise LoadingError(f"model {str(folder)!r} is a file. Give the folder that holds config.json.")
    if not (folder / "config.json").is_file():
        raise LoadingError(
            f"{str(folder)!r} is not a model folder: it has no config.json. Save one with "
            "model.save_pretrained(folder) and tokenizer.save_pretrained(folder)."
        )
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        raise LoadingError(
            f"{str(folder)!r} holds pickle weights only, which can run code when they are read. Convert them once: "
            "load the model where you trust it and call model.save_pretrained(folder)."
        )
    raise LoadingError(
        f"{str(folder)!r} holds no weights (*.safetensors). Save them with model.save_pretrained(folder)."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _explain(request: ModelRequest, what: str, error: Exception) -> str:
    from huggingface_hub import errors

    name = f"model {request.model!r}"
    chain = list(_chain(error))
    text = " ".join(str(error).split())

    def caused_by(*types: type) -> bool:
        return any(isinstance(one, types) for one in chain)

    if caused_by(errors.GatedRepoError):
        return (
            f"{name} is gated: accept its terms on https://huggingface.co/{request.model}, then log in with "
            "`hf auth login`."
        )
    if caused_by(errors.RevisionNotFoundError):
        return f"{name} has no revision {request.revision!r}. Look at the branches and tags of the repository."
    if caused_by(errors.RepositoryNotFoundError):
        return (
            f"{name} was not found on the Hub, or it is private: check the spelling, or log in with `hf auth login`."
        )
    if caused_by(errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError):
        return (
            f"{name} is not in the local Hugging Face cache and the Hub cannot be reached (or HF_HUB_OFFLINE is set). "
            f"Download it where there is a network, `hf download {request.model}`, or give a folder."
        )
    if isinstance(error, torch.OutOfMemoryError):
        return f"{name} does not fit into memory: try --dtype bfloat16 or --device-map auto. ({text[:120]})"
    if isinstance(error, json.JSONDecodeError) or "not a valid JSON" in text:
        return f"{name}: {what} is damaged: {text[:200]}. Download or save it again."
    if "safetensors" in text.lower() and "pickle" not in text.lower() and what == "its weights":
        return f"{name}: {what} cannot be read: {text[:200]}. Only whole safetensors files are loaded."
    if "trust_remote_code" in text:
        return (
            f"{name} brings its own Python code, which is not run by default. Read it, then pass --trust-remote-code."
        )
    if "accelerate" in text.lower():
        return f'{name}: --device-map needs accelerate. Install it with pip install "attnpatch[eval]".'
    return f"{name}: {what} cannot be loaded. {type(error).__name__}: {text[:300]}"
