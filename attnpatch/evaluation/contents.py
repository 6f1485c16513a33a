"""What a method's options only name, by content: a router trained anew, or other prompts, make old cells stale."""

from __future__ import annotations

import hashlib
from typing import Any

from safetensors.torch import save

from attnpatch.data_files import data_file
from attnpatch.evaluation.cells import digest
from attnpatch.evaluation.errors import UsageError
from attnpatch.patching.errors import AttnPatchError
from attnpatch.patching.method import build_config, method_class
from attnpatch.patching.saved import Saved

PROMPTS = "prompts"  # the option that names a file of prompts


def contents(name: str, config: dict[str, Any]) -> dict[str, str]:
    """Hashes of what method `name` reads under this config: its trained parameters, its file of prompts; often {}.

    Raises:
        UsageError: one of them is missing or damaged.
    """
    method_type = method_class(name)
    found = {}
    try:
        saved = getattr(method_type(build_config(method_type, config)), "saved", None)
        if isinstance(saved, Saved):
            found["saved"] = _saved_hash(saved)
        if isinstance(config.get(PROMPTS), str):
            found[PROMPTS] = hashlib.sha256(data_file(config[PROMPTS]).read_bytes()).hexdigest()
    except (AttnPatchError, OSError) as error:
        raise UsageError(f"method {name!r}: {error}") from error
    return found


def _saved_hash(saved: Saved) -> str:
    described = digest([saved.method, saved.config, saved.model, saved.details])
    return hashlib.sha256(described.encode() + save(saved.tensors)).hexdigest()
