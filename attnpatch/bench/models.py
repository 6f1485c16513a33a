"""Models from their config alone: without weights to look at, with random weights to time."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from attnpatch import sandbox
from attnpatch.patching.errors import AttnPatchError

SANDBOX = "sandbox:"
VOCABULARY = 4096  # rows of a timed model's embedding: enough for random tokens, small enough to build quickly


def load_config(name: str, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of a Hub id, a local folder or `sandbox:<name>`; no weights are read or downloaded.

    Raises AttnPatchError if there is none, or it is of an architecture that this transformers does not know.
    """
    try:
        return AutoConfig.from_pretrained(_locate(name), trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise AttnPatchError(_explain(name, error)) from error


def _locate(name: str) -> str:
    """The folder that `name` means, or the Hub id that it is."""
    if name.startswith(SANDBOX):
        folder = sandbox.path(name.removeprefix(SANDBOX))
        if not (folder / "config.json").is_file():
            raise AttnPatchError(
                f"{name} is not in this installation: {folder} has no config.json. Reinstall attnpatch."
            )
        return str(folder)
    folder = Path(name).expanduser()
    if folder.is_file():
        raise AttnPatchError(f"model {name!r} is a file; name the folder that holds its config.json.")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise AttnPatchError(
                f"model folder {name!r} has no config.json; save one with model.save_pretrained(...)."
            )
        return str(folder)
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise AttnPatchError(
            f"model {name!r}: no such folder. Give a folder, a Hub id, sandbox:text or sandbox:vision."
        )
    return name


def _explain(name: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return f"model {name!r} brings its own Python code, which is not run by default; pass --trust-remote-code."
    if isinstance(error.__cause__, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        return (
            f"the config of {name!r} is not in the local Hugging Face cache, and the Hub cannot be reached (or "
            "HF_HUB_OFFLINE is set). Give a folder, or fetch it where there is a network: "
            f"`hf download {name} config.json`."
        )
    return f"the config of {name!r} cannot be loaded: {text}"


def default_config() -> PreTrainedConfig:
    """Qwen3 at the shapes of its 0.6B checkpoint: hidden 1024, 16 query and 8 key heads of 128, MLP 3072."""
    return transformers.Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40960,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
    )


def shrink(config: PreTrainedConfig, *, layers: int | None, positions: int) -> PreTrainedConfig:
    """A copy of `config` to time: `layers` decoder layers (None: all), a small vocabulary, room for `positions`.

    A multimodal config keeps only its text side where transformers can build that alone. Raises AttnPatchError for
    a config that is not a language model's, and for a number of layers that it does not have.
    """
    text = config.get_text_config(decoder=True)
    alone = type(text) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    if not alone and type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise AttnPatchError(f"{type(config).__name__} is not the config of a causal language model.")
    small = (text if alone else config).to_dict()
    inner = small if alone or text is config else small["text_config"]
    depth = text.num_hidden_layers
    if layers is not None:
        if not 1 <= layers <= depth:
            raise AttnPatchError(f"layers must be 1 to {depth} for {type(config).__name__}, got {layers}.")
        inner[text.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = layers
        for key, value in inner.items():  # one entry per layer, such as layer_types
            if isinstance(value, list) and len(value) == depth and key != "architectures":
                inner[key] = value[:layers]
    if alone:
        inner["vocab_size"] = min(VOCABULARY, text.vocab_size)
        inner.update(pad_token_id=None, bos_token_id=1, eos_token_id=2)
    longest = text.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    if inner.get(longest):
        inner[longest] = max(inner[longest], positions)
    return type(text if alone else config).from_dict(small)


def random_model(config: PreTrainedConfig, *, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0):
    """A model of `config` with seeded random weights, in eval mode, on the attention that transformers picks."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = _build(config, dtype=dtype)
    return model.eval().requires_grad_(False)


def skeleton(config: PreTrainedConfig, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The module tree of `config` on the meta device: an 8B model costs no memory and no download.

    Raises AttnPatchError if no model class can be built from the config.
    """
    with torch.device("meta"):
        return _build(config, trust_remote_code=trust_remote_code)


def _build(config: PreTrainedConfig, *, trust_remote_code: bool = False, **options) -> PreTrainedModel:
    remote = getattr(config, "auto_map", None) or {}
    if type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        factory = transformers.AutoModelForImageTextToText
    elif type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in remote:
        factory = transformers.AutoModelForCausalLM
    else:
        factory = transformers.AutoModel
    if remote:
        options["trust_remote_code"] = trust_remote_code
    try:
        return factory.from_config(config, **options)
    except (ValueError, ImportError, AttributeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise AttnPatchError(f"no model can be built from a {type(config).__name__}: {reason}") from error
