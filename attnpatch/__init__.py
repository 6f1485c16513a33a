"""attnpatch changes how a pretrained Hugging Face model attends: one line in, one line out, bit for bit."""

import importlib
from importlib.metadata import PackageNotFoundError, version

from attnpatch import methods as _shipped  # registers the names
from attnpatch.patching import (
    AttnPatchError,
    Config,
    Method,
    Patch,
    UnsupportedCallError,
    UnsupportedModelError,
    apply,
    load,
    methods,
    patches,
    register,
)

try:
    __version__ = version("attnpatch")
except PackageNotFoundError:  # a bare checkout on the path
    __version__ = "0+unknown"

del _shipped


def __getattr__(name: str):
    """`attnpatch.sandbox` and its like, imported on first use."""
    if name in ("decoding", "evaluation", "kernels", "sandbox"):
        return importlib.import_module(f"attnpatch.{name}")
    raise AttributeError(f"module 'attnpatch' has no attribute {name!r}")


__all__ = [
    "AttnPatchError", "Config", "Method", "Patch", "UnsupportedCallError", "UnsupportedModelError", "__version__",
    "apply", "load", "methods", "patches", "register",
]  # fmt: skip
