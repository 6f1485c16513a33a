"""Trained methods on disk and on the Hub: `attnpatch_config.json`, `attnpatch.safetensors` and a model card."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from attnpatch.patching.errors import AttnPatchError, UnsupportedModelError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from attnpatch.patching.method import Method

CONFIG_FILE = "attnpatch_config.json"
TENSOR_FILE = "attnpatch.safetensors"
CARD_FILE = "README.md"
FORMAT = 1
PACKAGED = "sandbox:"  # what ships with the package, such as sandbox:flux
_SHIPPED = Path(__file__).parent.parent / "sandbox" / "weights"
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FITS = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")


@dataclass(frozen=True)
class Saved:
    """A trained method: its name, options, the model it was trained for, and its tensors.

    details: what the method itself needs to rebuild its parameters.
    """

    location: str
    method: str
    config: dict[str, Any]
    model: dict[str, Any]
    details: dict[str, Any]
    tensors: dict[str, torch.Tensor] = field(repr=False)

    def require(self, config: object) -> None:
        """Raise UnsupportedModelError unless the model with this text config is of the architecture trained for."""
        found = architecture(config)
        other = [
            f"{name} is {found[name]!r}, not {self.model[name]!r}"
            for name in _FITS
            if found[name] != self.model.get(name)
        ]
        if other:
            raise UnsupportedModelError(
                f"{self.location!r} was trained for another architecture than this model: {'; '.join(other)}. Train "
                "one for it with `attnpatch train`."
            )

    def fill(self, module: nn.Module) -> None:
        """Load the tensors into `module`. Raises AttnPatchError for missing, unknown and misshapen ones."""
        wanted = module.state_dict()
        missing, unknown = sorted(wanted.keys() - self.tensors.keys()), sorted(self.tensors.keys() - wanted.keys())
        wrong = [
            f"{name} {list(tensor.shape)} instead of {list(wanted[name].shape)}"
            for name, tensor in self.tensors.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ]
        for what, names in (("lacks", missing), ("has unknown", unknown), ("has misshapen", wrong)):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise AttnPatchError(
                    f"{self.location!r} {what} tensors: {', '.join(names[:3])}{more}. Save or download it again."
                )
        broken = [name for name, tensor in self.tensors.items() if not bool(torch.isfinite(tensor).all())]
        if broken:
            raise AttnPatchError(
                f"{self.location!r} holds numbers that are not finite in {', '.join(broken[:3])}, so it would decide "
                "nothing. Save or download it again."
            )
        module.load_state_dict(self.tensors)


def architecture(config: object) -> dict[str, Any]:
    """What must agree between the model a method was trained for and the one it is put into."""
    found = {name: getattr(config, name, None) for name in _FITS}
    if found["head_dim"] is None and found["hidden_size"] and found["num_attention_heads"]:
        found["head_dim"] = found["hidden_size"] // found["num_attention_heads"]
    return found


def read(location: str | Path) -> Saved:
    """A saved method from a folder, a Hub id or the package (`sandbox:flux`).

    Raises AttnPatchError: it is not there, or a file of it is missing or damaged; says which.
    """
    folder = _folder(str(location))
    try:
        described = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if described["format"] > FORMAT:
            raise AttnPatchError(
                f"{str(location)!r} was saved by a newer attnpatch (format {described['format']}, this one reads "
                f"{FORMAT}); upgrade attnpatch."
            )
        tensors = load_file(folder / TENSOR_FILE)
        parts = {name: described[name] for name in ("method", "config", "model", "details")}
        if not all(isinstance(parts[name], dict) for name in ("config", "model", "details")):
            raise ValueError(f"config, model and details of {CONFIG_FILE} must be objects")
    except FileNotFoundError as error:
        name = Path(error.filename).name if error.filename else TENSOR_FILE
        raise AttnPatchError(
            f"{str(location)!r} holds no {name}, so it is no saved method. patch.save_pretrained(folder) writes one."
        ) from error
    except AttnPatchError:
        raise
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise AttnPatchError(
            f"the saved method in {str(location)!r} is damaged: {error!r}. Save or download it again."
        ) from error
    return Saved(str(location), tensors=tensors, **parts)


def _folder(location: str) -> Path:
    if location.startswith(PACKAGED):
        name, shipped = location.removeprefix(PACKAGED), _shipped()
        if name not in shipped:
            near = did_you_mean(name, shipped)
            raise AttnPatchError(f"{location!r} does not ship with attnpatch.{near} Allowed: {_shipped_names()}.")
        return _SHIPPED / name
    folder = Path(location).expanduser()
    if location and folder.is_dir():
        return folder
    if folder.exists() or not location or location.startswith((".", "/", "~")) or location.count("/") != 1:
        raise AttnPatchError(
            f"{location!r} is neither a folder with a saved method nor a Hub id (owner/name) nor one that ships with "
            f"attnpatch ({_shipped_names()})."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(location, allow_patterns=[CONFIG_FILE, TENSOR_FILE]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise AttnPatchError(
            f"{location!r} is no folder here and cannot be fetched from the Hub: {' '.join(str(error).split())[:99]}. "
            f"Check the name, or download it where there is a network: `hf download {location}`."
        ) from error


def _shipped() -> list[str]:
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{CONFIG_FILE}"))


def _shipped_names() -> str:
    return ", ".join(PACKAGED + name for name in _shipped()) or "(none in this installation)"


def save(method: Method, config: object, folder: str | Path, *, card: str | None = None) -> Path:
    """Write `method` as trained for the model with this text config; returns the folder.

    card: the text of the model card; a plain one if None. Raises AttnPatchError if nothing of it was trained.
    """
    if method.trained is None:
        raise AttnPatchError(f"method {method.name!r} has no trained parameters to save under these options.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "format": FORMAT,
        "method": method.name,
        "config": method.saved_config(),
        "model": {**architecture(config), "name": _name(config)},
        "details": method.saved_details(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
    }
    (folder / CONFIG_FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in method.trained.state_dict().items()}
    save_file(tensors, folder / TENSOR_FILE, metadata={"format": "pt"})
    (folder / TENSOR_FILE).chmod(0o644)  # safetensors writes it for its owner only
    (folder / CARD_FILE).write_text(card or _plain_card(described), encoding="utf-8")
    return folder


def _name(config: object) -> str | None:
    """The Hub id the model came from; no paths of the machine it was trained on."""
    name = str(getattr(config, "_name_or_path", "") or "")
    return name if _HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _plain_card(described: dict[str, Any]) -> str:
    base = f"base_model: {described['model']['name']}\n" if described["model"]["name"] else ""
    options = json.dumps(described["config"], indent=2)
    return (
        f"---\nlibrary_name: attnpatch\n{base}tags: [attnpatch, {described['method']}]\n---\n\n"
        f"# {described['method']} for {described['model']['name'] or described['model']['model_type']}\n\n"
        "```python\nimport attnpatch\n\npatch = attnpatch.load(model, FOLDER_OR_HUB_ID)\n```\n\n"
        f"Options:\n\n```json\n{options}\n```\n"
    )
