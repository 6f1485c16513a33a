"""A small untrained LLaVA with a real processor, and pictures."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image

from attnpatch.sandbox.vision.model import build_model
from attnpatch.sandbox.vision.processor import build_processor

QUESTION = "Is there a ring in the image ?"


def small_model(**changes):
    """Four layers with sharp attention, so that every question and every picture looks elsewhere."""
    model = build_model(layers=4, hidden=64, vision_layers=3, vision_hidden=32, **changes).eval()
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            layer.self_attn.q_proj.weight *= 8
            layer.self_attn.k_proj.weight *= 8
            layer.self_attn.v_proj.weight *= 10
    return model


def used_model():
    """A small model that has run once: transformers hangs hooks of its own into it on the first run."""
    model, inputs = small_model(), processor()(text="<image>", images=picture(), return_tensors="pt")
    with torch.no_grad():
        model.generate(**inputs, max_new_tokens=1)
    return model


@cache
def processor():
    return build_processor()


def picture(width: int = 48, height: int = 48) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
