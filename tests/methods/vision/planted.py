"""A small LLaVA whose attention sinks are planted: some tokens carry huge values in two dimensions for some layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers as tf

from tests.zoo import IMAGE, TEXT, TOWER

LAYERS, SIZE, DIMS = 9, 1024, (3, 7)
FROM, UNTIL = 2, 7  # layers that the planted values enter, the end excluded


def build() -> tf.LlavaForConditionalGeneration:
    torch.manual_seed(0)
    text = {**TEXT, "hidden_size": SIZE, "num_hidden_layers": LAYERS, "head_dim": 8}
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**TOWER),
        text_config=tf.LlamaConfig(**text),
        image_token_index=IMAGE,
        vision_feature_layer=-1,
    )
    return tf.LlavaForConditionalGeneration(config).eval()


@contextmanager
def planted(layers, tokens: list[int], dims: tuple[int, ...] = DIMS) -> Iterator[None]:
    """Inside the block `tokens` of a prompt carry 100 more in `dims` where they enter the layers FROM..UNTIL-1."""

    def adding(amount: float):
        def hook(module, args, output):
            if output.shape[1] == 1:
                return output
            new = output.clone()
            for dim in dims:
                new[:, [token for token in tokens if token < output.shape[1]], dim] += amount
            return new

        return hook

    handles = [
        layers[FROM - 1].register_forward_hook(adding(100.0)),
        layers[UNTIL - 1].register_forward_hook(adding(-100.0)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
