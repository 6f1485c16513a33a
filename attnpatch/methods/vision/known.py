"""What is known of some language models: options of the vision methods, found by the shape of the text model.

A vision-language model is recognised by its language model, because that is what the numbers belong to: a
LLaVA-1.5-7B that somebody has fine-tuned keeps the sink dimensions of its LLaMA-2. Sources: VAR's paper and released
code (arXiv 2503.03321), GIFT's released configurations (arXiv 2510.22067), the texts of VHR (arXiv 2412.13949) and
LocoRE (arXiv 2601.20279).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Known:
    """A language model.

    name: for people; shape: values of its text config; vocab: smallest and largest number of tokens (checkpoints add
    some); options: by name of the method, what it takes on this model.
    """

    name: str
    shape: dict[str, Any]
    vocab: tuple[int, int]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def is_of(self, config: object) -> bool:
        """Is this the language model of the text config?"""
        fits = all(getattr(config, key, None) in _as_tuple(value) for key, value in self.shape.items())
        return fits and self.vocab[0] <= (getattr(config, "vocab_size", None) or 0) <= self.vocab[1]


def _as_tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def _shape(model_type: str | tuple[str, ...], hidden: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


MODELS = (
    Known(
        "LLaMA-2 7B (LLaVA-1.5-7B, LLaVA-1.6-vicuna-7B)",
        _shape("llama", 4096, 32, 32, 32),
        (32000, 32100),
        {"var": {"dims": (1415, 2533)}, "gift": {"saliency_layer": 11, "layers": "12:23", "alpha": 5.0}},
    ),
    Known(
        "LLaMA-2 13B (LLaVA-1.5-13B, LLaVA-1.6-vicuna-13B)",
        _shape("llama", 5120, 40, 40, 40),
        (32000, 32100),
        {"var": {"dims": (2100, 4743)}, "gift": {"saliency_layer": 10, "layers": "14:21", "alpha": 5.0}},
    ),
    Known(
        "Qwen2-VL-7B",
        _shape(("qwen2_vl", "qwen2_vl_text"), 3584, 28, 28, 4),
        (151000, 153000),
        {
            "var": {"dims": (458, 2570)},
            "gift": {"saliency_layer": 14, "layers": "5:19", "alpha": 4.0},
            "locore": {"beta": 0.20},
        },
    ),
    Known(
        "InternLM2 7B (InternVL2-8B)",
        _shape(("internlm2", "llama"), 4096, 32, 32, 8),
        (92000, 93000),
        {"var": {"dims": (3584,)}},
    ),
)


def known_options(method: str, config: object) -> dict[str, Any]:
    """The options of `method` for the language model with this text config; empty where nothing is known."""
    for model in MODELS:
        if model.is_of(config):
            return dict(model.options.get(method, {}))
    return {}
