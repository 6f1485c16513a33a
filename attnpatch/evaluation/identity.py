"""Fingerprints: two models with the same fingerprint answer the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

_WHOLE = 64 * 2**20  # files up to this size are hashed whole, larger ones by samples
_CHUNK = 2**20
_SAMPLED = 16  # chunks of a large file
_VALUES = 64  # values sampled from every parameter


@dataclass(frozen=True)
class ModelIdentity:
    """What enters a cell's key about the model."""

    id: str
    revision: str | None
    fingerprint: str
    tokenizer: str | None
    dtype: str
    attn_implementation: str
    device: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def folder_fingerprint(folder: Path) -> str:
    """sha256 over config and weights of a model folder, without loading it."""
    whole = hashlib.sha256()
    files = [
        folder / "config.json",
        *sorted(folder.glob("*.safetensors")),
        *sorted(folder.glob("*.safetensors.index.json")),
    ]
    for path in files:
        if path.is_file():
            size = path.stat().st_size
            whole.update(f"{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                if size <= _WHOLE:
                    whole.update(file.read())
                else:  # evenly spread, first and last chunk included
                    for i in range(_SAMPLED):
                        file.seek((size - _CHUNK) * i // (_SAMPLED - 1))
                        whole.update(file.read(_CHUNK))
    return whole.hexdigest()


def model_fingerprint(model: torch.nn.Module) -> str:
    """sha256 over the config and values sampled from every parameter of a model in memory."""
    config = model.config.to_dict()
    config.pop("transformers_version", None)
    whole = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in model.named_parameters():
        whole.update(f"{name}\0{tuple(parameter.shape)}\0{parameter.dtype}\0".encode())
        if parameter.device.type != "meta" and parameter.numel():
            values = parameter.detach().flatten()
            picked = torch.linspace(0, values.numel() - 1, min(_VALUES, values.numel())).long().to(values.device)
            whole.update(values[picked].float().cpu().numpy().tobytes())
    return whole.hexdigest()


def tokenizer_fingerprint(tokenizer) -> str | None:
    """sha256 over the vocabulary and how it encodes a probe; None without a tokenizer."""
    if tokenizer is None:
        return None
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    probe = tokenizer.encode("The quick brown fox, 1 2 345: jumps.")
    return hashlib.sha256(json.dumps([vocabulary, probe]).encode()).hexdigest()
