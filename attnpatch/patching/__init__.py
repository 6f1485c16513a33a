"""The door: how a method gets into a model and out again."""

from attnpatch.patching.apply import apply, load, patches
from attnpatch.patching.calls import Call
from attnpatch.patching.errors import AttnPatchError, UnsupportedCallError, UnsupportedModelError
from attnpatch.patching.forward import Forward
from attnpatch.patching.method import Config, Method, method_class, method_names, methods, register
from attnpatch.patching.patch import Patch
from attnpatch.patching.report import Report
from attnpatch.patching.sites import Site, inspect_model

__all__ = [
    "AttnPatchError", "Call", "Config", "Forward", "Method", "Patch", "Report", "Site", "UnsupportedCallError",
    "UnsupportedModelError", "apply", "inspect_model", "load", "method_class", "method_names", "methods", "patches",
    "register",
]  # fmt: skip
