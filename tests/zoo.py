"""Tiny random models of the real classes, one per family that transformers ships and users patch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import transformers as tf
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

PLAIN = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TEXT = {**PLAIN, "num_key_value_heads": 2}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LATENT = {
    **PLAIN,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
IMAGE, VIDEO = 100, 101
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "out_hidden_size": 32,
}
QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 102, "vision_end_token_id": 103}
GRID = {"image_grid_pinpoints": [[28, 28], [28, 56]]}


def deep(layers: int) -> dict:
    """Hybrids need enough layers to contain one with full attention."""
    return {**TEXT, "num_hidden_layers": layers}


def rope(sections: list[int]) -> dict:
    return {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e4}


GEMMA = {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}

TEXT_CONFIGS: dict[str, Callable[[], tf.PreTrainedConfig]] = {
    "llama": lambda: tf.LlamaConfig(**TEXT),
    "llama_mha": lambda: tf.LlamaConfig(**PLAIN),
    "llama_mqa": lambda: tf.LlamaConfig(**{**TEXT, "num_key_value_heads": 1}),
    "qwen2": lambda: tf.Qwen2Config(**TEXT),
    "phi3": lambda: tf.Phi3Config(**TEXT),
    "olmo2": lambda: tf.Olmo2Config(**TEXT),
    "smollm3": lambda: tf.SmolLM3Config(**TEXT),
    "granite": lambda: tf.GraniteConfig(**TEXT),
    "starcoder2": lambda: tf.Starcoder2Config(**TEXT),
    "gpt_neox": lambda: tf.GPTNeoXConfig(**PLAIN),
    "phi": lambda: tf.PhiConfig(**PLAIN),
    "mistral": lambda: tf.MistralConfig(**TEXT, sliding_window=8),
    "mixtral": lambda: tf.MixtralConfig(**TEXT, num_local_experts=4),
    "qwen3": lambda: tf.Qwen3Config(**TEXT, head_dim=8),
    "glm4": lambda: tf.Glm4Config(**TEXT, head_dim=8),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(**TEXT, head_dim=8, **MOE),
    "qwen3_next": lambda: tf.Qwen3NextConfig(
        **deep(4), head_dim=16, **MOE, shared_expert_intermediate_size=16, **LINEAR
    ),
    "qwen3_5": lambda: tf.Qwen3_5TextConfig(**deep(4), head_dim=16, **LINEAR),
    "gemma2": lambda: tf.Gemma2Config(**TEXT, **GEMMA),
    "gemma3_text": lambda: tf.Gemma3TextConfig(**deep(6), **GEMMA),
    "cohere2": lambda: tf.Cohere2Config(**deep(4), sliding_window=8),
    "gpt_oss": lambda: tf.GptOssConfig(
        **TEXT, head_dim=8, sliding_window=8, num_local_experts=4, num_experts_per_tok=2
    ),
    "llama4": lambda: tf.Llama4TextConfig(
        **deep(4),
        head_dim=8,
        attention_chunk_size=8,
        num_local_experts=2,
        intermediate_size_mlp=64,
        interleave_moe_layer_step=2,
    ),
    "deepseek_v3": lambda: tf.DeepseekV3Config(**LATENT),
    "gpt2": lambda: tf.GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=4, n_positions=256, **TOKENS),
    "opt": lambda: tf.OPTConfig(
        vocab_size=128,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=32,
        **TOKENS,
    ),
}

REFUSED_CONFIGS: dict[str, Callable[[], tf.PreTrainedConfig]] = {
    "falcon": lambda: tf.FalconConfig(
        vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **TOKENS
    ),
    "bloom": lambda: tf.BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4, **TOKENS),
    "mpt": lambda: tf.MptConfig(vocab_size=128, d_model=32, n_layers=2, n_heads=4, max_seq_len=256, **TOKENS),
    "gptj": lambda: tf.GPTJConfig(
        vocab_size=128,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        rotary_dim=8,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "deepseek_v32": lambda: tf.DeepseekV32Config(**LATENT, index_n_heads=2, index_head_dim=16, index_topk=4),
}

VLM_CONFIGS: dict[str, Callable[[], tf.PreTrainedConfig]] = {
    "llava": lambda: tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**TOWER),
        text_config=tf.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    ),
    "llava_next": lambda: tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**TOWER),
        text_config=tf.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        **GRID,
    ),
    "llava_onevision": lambda: tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**TOWER),
        text_config=tf.Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **GRID,
    ),
    "qwen2_vl": lambda: tf.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope([1, 1, 2])},
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "mlp_ratio": 2,
            "num_heads": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
        },
        **QWEN_IDS,
    ),
    "qwen2_5_vl": lambda: tf.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": rope([1, 1, 2])},
        vision_config={**QWEN_TOWER, "fullatt_block_indexes": [1], "window_size": 56},
        **QWEN_IDS,
    ),
    "qwen3_vl": lambda: tf.Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 8, "rope_parameters": rope([2, 1, 1])},
        vision_config={**QWEN_TOWER, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        **QWEN_IDS,
    ),
    "internvl": lambda: tf.InternVLConfig(
        text_config=tf.Qwen2Config(**TEXT),
        vision_config={**TOWER, "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=IMAGE,
        image_seq_length=4,
        downsample_ratio=0.5,
    ),
    "gemma3": lambda: tf.Gemma3Config(
        text_config=tf.Gemma3TextConfig(**deep(6), **GEMMA),
        vision_config=tf.SiglipVisionConfig(**TOWER),
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        boi_token_index=102,
        eoi_token_index=103,
    ),
    "mllama": lambda: tf.MllamaConfig(
        text_config=MllamaTextConfig(**deep(3), cross_attention_layers=[1]),
        vision_config=MllamaVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_global_layers=1,
            attention_heads=4,
            image_size=28,
            patch_size=14,
            vision_output_dim=64,
            intermediate_layers_indices=[0],
            supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
            max_num_tiles=2,
        ),
        image_token_index=IMAGE,
    ),
    "paligemma": lambda: tf.PaliGemmaConfig(
        text_config=tf.GemmaConfig(**TEXT, head_dim=8),
        vision_config=tf.SiglipVisionConfig(**TOWER, projection_dim=32),
        image_token_index=IMAGE,
        projection_dim=32,
    ),
    "idefics3": lambda: tf.Idefics3Config(
        text_config=tf.LlamaConfig(**TEXT),
        vision_config={**TOWER, "image_size": 56},
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    ),
    "smolvlm": lambda: tf.SmolVLMConfig(
        text_config=tf.LlamaConfig(**TEXT),
        vision_config={**TOWER, "image_size": 56},
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    ),
}


def build(family: str, **changes) -> tf.PreTrainedModel:
    """A fresh random model of `family` in eval mode, the same weights at every call."""
    torch.manual_seed(0)
    if family in VLM_CONFIGS:
        model = tf.AutoModelForImageTextToText.from_config(VLM_CONFIGS[family](), **changes).eval()
        if family == "gemma3":  # transformers starts it at zero, and all image tokens would be the same
            torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)
        return model
    config = (TEXT_CONFIGS | REFUSED_CONFIGS)[family]()
    return tf.AutoModelForCausalLM.from_config(config, **changes).eval()


def tiny_qwen3(vocab_size: int, positions: int = 512) -> tf.Qwen3ForCausalLM:
    """Two layers for a vocabulary of the test's own."""
    torch.manual_seed(0)
    config = tf.Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=positions,
    )
    return tf.Qwen3ForCausalLM(config).eval()


@cache
def text_batch() -> dict[str, torch.Tensor]:
    """Two prompts of 12 tokens, the first one left-padded by 3."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 100, (2, 12), generator=generator)
    mask = torch.ones_like(ids)
    ids[0, :3], mask[0, :3] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def image_prompt(family: str) -> dict[str, torch.Tensor]:
    """One prompt with one image for a vision-language family."""
    torch.manual_seed(2)
    count = {"mllama": 1, "llava_next": 10, "llava_onevision": 10}.get(family, 4)
    head = [1, 102] if family.startswith("qwen") else [1]
    ids = torch.tensor([head + [IMAGE] * count + [5, 6, 7, 8, 9, 10]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if family in ("llava", "gemma3", "paligemma"):
        inputs["pixel_values"] = torch.randn(1, 3, 28, 28)
    elif family == "internvl":
        inputs["pixel_values"] = torch.randn(1, 3, 56, 56)
    elif family in ("idefics3", "smolvlm"):
        inputs["pixel_values"] = torch.randn(1, 1, 3, 56, 56)
    elif family in ("llava_next", "llava_onevision"):
        inputs |= {"pixel_values": torch.randn(1, 2, 3, 28, 28), "image_sizes": torch.tensor([[28, 28]])}
    elif family.startswith("qwen"):
        inputs |= {"pixel_values": torch.randn(16, 1176), "image_grid_thw": torch.tensor([[1, 4, 4]])}
        if family != "qwen2_5_vl":  # that one is also tested with its positions left to the model
            inputs["mm_token_type_ids"] = (ids == IMAGE).long()
    elif family == "mllama":
        inputs |= {
            "pixel_values": torch.randn(1, 1, 2, 3, 28, 28),
            "aspect_ratio_ids": torch.tensor([[1]]),
            "aspect_ratio_mask": torch.tensor([[[1, 0]]]),
            "cross_attention_mask": torch.ones(1, ids.shape[1], 1, 2, dtype=torch.long),
        }
    if family in ("gemma3", "paligemma"):
        inputs["token_type_ids"] = (ids == IMAGE).long()
    return inputs


def prompt_for(family: str) -> dict[str, torch.Tensor]:
    return image_prompt(family) if family in VLM_CONFIGS else text_batch()
