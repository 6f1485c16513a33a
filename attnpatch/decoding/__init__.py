"""Decoding-time companions: they change what is made of a model's logits while it writes.

    tokens = attnpatch.decoding.generate(model, inputs, "vcd", alpha=1.0, max_new_tokens=64)

One of them, for several calls: `companion = attnpatch.decoding.build("vcd", alpha=1.0)`, then
`companion.generate(model, inputs, max_new_tokens=64)`; or, for one call of the model's own,
`model.generate(**inputs, **companion.settings(model, inputs))`. They go with patches of the same model: what
`attnpatch.apply` put in stays in, also in a companion's second branch.
"""

from attnpatch.decoding.companion import Companion
from attnpatch.decoding.generating import generate
from attnpatch.decoding.registry import NAMES, build, companion_class, companions, names

__all__ = ["NAMES", "Companion", "build", "companion_class", "companions", "generate", "names"]
