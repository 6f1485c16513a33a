"""A vision-language model and its processor, by name: for the commands and functions that look at images."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnpatch.patching.errors import AttnPatchError, UnsupportedModelError, did_you_mean
from attnpatch.vision.processors import without_video

SANDBOX = "sandbox:"
_PILLOW = "pip install 'attnpatch[eval]'"
_ADD_PROCESSOR = (
    "Add preprocessor_config.json and the tokenizer's files: processor.save_pretrained(folder) writes them."
)


def load_vision_model(
    name_or_path: str | Path,
    dtype: Any = None,
    device_map: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """`(model, processor)`, the model in eval mode.

    Args:
        name_or_path: a Hub id, a folder that holds model and processor, or `sandbox:vision`.
        dtype: a torch dtype or its name; None: float32 on a CPU, the checkpoint's own on a GPU.
        device_map: as in transformers; None: the GPU if there is one.
        trust_remote_code: run model code that the checkpoint brings along.

    Raises:
        AttnPatchError: the model or its processor is not there or cannot be read, or a dtype that does not exist.
        UnsupportedModelError: it is not a vision-language model.
        ImportError: Pillow is not installed.
    """
    import torch

    if find_spec("PIL") is None:
        raise ImportError(f"images are read with Pillow, which is not installed: {_PILLOW}")
    name = str(name_or_path)
    wanted = _dtype(dtype)
    if name.startswith(SANDBOX):
        return _sandbox(name, wanted, device_map)
    where = _locate(name)
    trust = {"trust_remote_code": trust_remote_code}
    config = _read(name, "config", _transformers("AutoConfig").from_pretrained, where, **trust)
    _require_vision(name, config)
    processor = _processor(name, where, config, trust)
    if wanted is None:
        wanted = "auto" if torch.cuda.is_available() else torch.float32
    placed = {"device_map": device_map} if device_map else {}
    load = _transformers("AutoModelForImageTextToText").from_pretrained
    settings = {"dtype": wanted, "use_safetensors": True, "output_loading_info": True, **placed, **trust}
    model, report = _read(name, "weights", load, where, **settings)
    if missing := sorted(report.get("missing_keys", ())):
        raise AttnPatchError(
            f"model {name!r}: {len(missing)} weights are not in the checkpoint and would be random "
            f"({', '.join(missing[:3])}). Check that the files belong to this config."
        )
    if not device_map and torch.cuda.is_available():
        model = model.to("cuda")
    return model.eval(), processor


def _transformers(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def _dtype(given: Any) -> Any:
    """A torch dtype, or None. Raises AttnPatchError for a name that is none."""
    import torch

    if given is None or given == "auto" or isinstance(given, torch.dtype):
        return None if given == "auto" else given
    allowed = ("float32", "bfloat16", "float16")
    if given not in allowed:
        raise AttnPatchError(f"unknown dtype {given!r}.{did_you_mean(str(given), allowed)} Allowed: auto, float32, "
                             "bfloat16, float16.")  # fmt: skip
    return getattr(torch, given)


def _sandbox(name: str, dtype: Any, device_map: str | None) -> tuple[Any, Any]:
    from attnpatch import sandbox

    if name != f"{SANDBOX}vision":
        raise AttnPatchError(f"{name!r} is no packaged vision-language model.{did_you_mean(name, ['sandbox:vision'])} "
                             "Allowed: sandbox:vision.")  # fmt: skip
    try:
        model, processor = sandbox.load("vision", dtype=dtype)
    except RuntimeError as error:
        raise AttnPatchError(str(error)) from error
    return (model.to(device_map) if device_map and device_map != "auto" else model), processor


def _locate(name: str) -> str:
    """The folder that `name` means, or the Hub id that it is."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise AttnPatchError(f"model folder {name!r} has no config.json; save one with model.save_pretrained().")
        return str(folder)
    if folder.exists():
        raise AttnPatchError(f"model {name!r} is a file; name the folder that holds its config.json.")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise AttnPatchError(
            f"model {name!r}: no such folder. Give a folder, a Hub id (owner/name) or sandbox:vision."
            + did_you_mean(name, ["sandbox:vision"])
        )
    return name


def _require_vision(name: str, config: Any) -> None:
    known = type(config) in _transformers("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING")
    remote = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if not known and not remote:
        raise UnsupportedModelError(
            f"model {name!r} is not a vision-language model: transformers builds no image-text-to-text model from a "
            f"{type(config).__name__}. Give one such as llava-hf/llava-1.5-7b-hf, or sandbox:vision."
        )


def _processor(name: str, where: str, config: Any, trust: dict[str, bool]) -> Any:
    processor = None
    if find_spec("torchvision") is None:  # only processors of videos need it
        processor = without_video(where, config, trust)
    if processor is None:
        processor = _read(name, "processor", _transformers("AutoProcessor").from_pretrained, where, **trust)
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise AttnPatchError(
            f"model {name!r} comes without a processor: transformers found only a {type(processor).__name__} there. "
            f"{_ADD_PROCESSOR}"
        )
    return processor


def _read(name: str, what: str, read: Any, where: str, **options: Any) -> Any:
    """`read(where)`; what can go wrong becomes one sentence with the fix."""
    from safetensors import SafetensorError

    try:
        return read(where, **options)
    except ImportError as error:
        text = " ".join(str(error).split())
        missing = next((one for one in ("torchvision", "accelerate") if one in text.lower()), None)
        fix = f"Install it: pip install {missing}." if missing else ""
        raise AttnPatchError(
            f"transformers needs {missing or 'another package'} for the {what} of {name!r}. {fix} ({text[:120]})"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise AttnPatchError(_explain(name, what, error)) from error


def _explain(name: str, what: str, error: Exception) -> str:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return f"model {name!r} brings its own Python code, which is not run by default; pass --trust-remote-code."
    if isinstance(error.__cause__, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
        return (
            f"the {what} of {name!r} is not in the local Hugging Face cache, and the Hub cannot be reached (or "
            f"HF_HUB_OFFLINE is set). Give a folder, or fetch it where there is a network: `hf download {name}`."
        )
    fix = f" {_ADD_PROCESSOR}" if what == "processor" else ""
    return f"the {what} of {name!r} cannot be loaded: {text[:200]}.{fix}"
