"""The sandbox vision model: a small `LlavaForConditionalGeneration`."""

from __future__ import annotations

import torch

from attnpatch.sandbox.vision import vocabulary as v
from attnpatch.sandbox.vision.drawing import PATCH, PIXELS

IMAGE_TOKENS = (PIXELS // PATCH) ** 2
VISION_LAYERS = 3
LAYERS = 4


def build_model(
    seed: int = 0, layers: int = LAYERS, hidden: int = 128, vision_layers: int = VISION_LAYERS, vision_hidden: int = 96
):
    """A freshly initialised model: a CLIP tower, a projector of two layers, and a Llama with heads of 32.

    As in LLaVA, the tower's class token takes part in its attention and is dropped before the projector.
    """
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=vision_hidden,
        intermediate_size=2 * vision_hidden,
        projection_dim=vision_hidden,
        num_hidden_layers=vision_layers,
        num_attention_heads=vision_hidden // 32,
        image_size=PIXELS,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(v.WORDS),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        pad_token_id=v.ID[v.PAD],
        bos_token_id=v.ID[v.BOS],
        eos_token_id=v.ID[v.EOS],
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=v.ID[v.IMAGE],
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=v.ID[v.PAD],
        bos_token_id=v.ID[v.BOS],
        eos_token_id=v.ID[v.EOS],
    )
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config)


def matrices(model) -> list[torch.nn.Parameter]:
    """The weight matrices inside the layers of both transformers and in the projector, for Muon."""
    inside = (
        *model.model.vision_tower.encoder.layers.parameters(),
        *model.model.multi_modal_projector.parameters(),
        *model.model.language_model.layers.parameters(),
    )
    return [p for p in inside if p.ndim == 2]
