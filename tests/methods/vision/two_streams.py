"""VHR written out on a LLaVA of Llama layers in float64: both streams by hand, layer by layer, without a cache."""

from __future__ import annotations

import torch
import transformers as tf

from tests import zoo

HEADS = 4


def deep_llava(layers: int = 5, seed: int = 0, heads: int = HEADS) -> tf.PreTrainedModel:
    """A LLaVA of so many layers in float64; its weights are large enough for heads to differ."""
    torch.manual_seed(seed)
    config = zoo.VLM_CONFIGS["llava"]()
    text = {**zoo.TEXT, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = tf.LlavaConfig(
        vision_config=config.vision_config,
        text_config=tf.LlamaConfig(**text, initializer_range=0.3),
        image_token_index=zoo.IMAGE,
        vision_feature_layer=-1,
    )
    return tf.AutoModelForImageTextToText.from_config(config).double().eval()


def answer(model, inputs: dict, tokens: int, layers: list[int], alpha: float, **options) -> tuple[torch.Tensor, dict]:
    """Logits `[tokens, V]` of a greedy answer to one prompt, and the heads chosen in each layer."""
    ids, chosen, logits = inputs["input_ids"][0], None, []
    prompt = len(ids)
    for _ in range(tokens):
        hidden, picked = _both(model, ids, inputs["pixel_values"], prompt, layers, alpha, chosen, **options)
        chosen = picked if chosen is None else chosen
        logits.append(model.lm_head(model.model.language_model.norm(hidden[-1])))
        ids = torch.cat([ids, logits[-1].argmax()[None]])
    return torch.stack(logits), chosen


def _both(
    model,
    ids,
    pixels,
    prompt,
    layers,
    alpha,
    chosen,
    *,
    outlier_filter=True,
    reinforce_text=True,
    rows="all",
):
    text = model.model.language_model
    embedded = text.embed_tokens(ids)
    features = model.model.vision_tower(pixels.double()).last_hidden_state[:, 1:]
    embedded[ids == zoo.IMAGE] = model.model.multi_modal_projector(features)[0]
    alone = text.embed_tokens(ids[:prompt][ids[:prompt] != zoo.IMAGE])
    picked = {}
    for number, layer in enumerate(text.layers):
        o_image, o_text = _heads(text, layer, embedded), _heads(text, layer, alone)
        if number in layers:
            if chosen is None:
                picked[number] = choose(o_image[prompt - 1], o_text[-1], outlier_filter)
            for head in (picked if chosen is None else chosen)[number]:
                o_image[0 if rows == "all" else prompt - 1 :, head] *= alpha
                if reinforce_text:
                    o_text[0 if rows == "all" else -1 :, head] *= alpha
        embedded, alone = _finish(layer, embedded, o_image), _finish(layer, alone, o_text)
    return embedded, picked


def choose(image: torch.Tensor, text: torch.Tensor, outlier_filter: bool) -> list[int]:
    """Numbers of the heads, from their outputs `[H, D]`."""
    vhd = [float((a - b).pow(2).sum().sqrt()) for a, b in zip(image, text, strict=True)]
    ta = [float(b.pow(2).sum()) for b in text]
    if outlier_filter:
        high, strong = _limit(vhd), _limit(ta)
        vhd = [0.0 if v > high and t > strong else v for v, t in zip(vhd, ta, strict=True)]
    median = sorted(vhd)[(len(vhd) - 1) // 2]
    return [head for head, value in enumerate(vhd) if value > median]


def _limit(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return mean + (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5


def _heads(text, layer, hidden: torch.Tensor) -> torch.Tensor:
    """Outputs `[T, H, D]` of the heads for the residual stream `[T, hidden]`."""
    attention, heads = layer.self_attn, text.config.num_attention_heads
    x, count = layer.input_layernorm(hidden), hidden.shape[0]
    query, key, value = (
        project(x).view(count, -1, attention.head_dim).transpose(0, 1)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    key, value = (each.repeat_interleave(heads // each.shape[0], 0) for each in (key, value))
    scores = _rotated(query) @ _rotated(key).mT / attention.head_dim**0.5
    later = torch.ones(count, count, dtype=torch.bool).triu(1)
    return (scores.masked_fill(later, -torch.inf).softmax(-1) @ value).transpose(0, 1).contiguous()


def _rotated(states: torch.Tensor) -> torch.Tensor:
    half = states.shape[-1] // 2
    rate = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(states.shape[-2], dtype=torch.float64)[:, None] * rate
    real, imaginary = states[..., :half], states[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([real * cos - imaginary * sin, imaginary * cos + real * sin], -1)


def _finish(layer, hidden: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    hidden = hidden + layer.self_attn.o_proj(heads.flatten(1))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))
