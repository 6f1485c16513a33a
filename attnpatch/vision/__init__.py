"""Around the vision methods: looking at where a model looks, and asking again about what it looked at.

>>> model, processor = attnpatch.vision.load_vision_model("llava-hf/llava-1.5-7b-hf")
>>> attnpatch.vision.carve(model, processor, image, "What is in the man's hand?").answer
"""

from __future__ import annotations

import importlib

_HOME = {
    "CarveConfig": "carving",
    "Carved": "carving",
    "calibrate": "calibration",
    "carve": "carving",
    "load_vision_model": "loading",
    "look": "looking",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    """What the package offers, imported on first use."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
