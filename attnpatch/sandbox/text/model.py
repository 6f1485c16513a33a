"""The sandbox text model: a small `Qwen3ForCausalLM`."""

from __future__ import annotations

import torch

from attnpatch.sandbox.text import vocabulary as v

LAYERS = 6
RETRIEVAL = (2, 4)  # the layers that start with matching heads


def build_model(seed: int = 0, layers: int = LAYERS, hidden: int = 128):
    """A freshly initialised model; query and key norms start at 1.5 so that attention can become sharp."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(v.WORDS),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        head_dim=32,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        pad_token_id=v.ID[v.PAD],
        bos_token_id=v.ID[v.BOS],
        eos_token_id=v.ID[v.EOS],
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_norm.weight.fill_(1.5)
            layer.self_attn.k_norm.weight.fill_(1.5)
        _start_induction(model, tuple(i for i in RETRIEVAL if i < layers))
    return model


def _start_induction(model, layers: tuple[int, ...]) -> None:
    """Start one previous-token group in layer 0 and one matching group in each of `layers`; all of it is then trained.

    Waiting for an induction circuit to form by chance takes most of a short training, and forms it in one layer only.

    * Layer 0, key-value group 0 looks one token back. One embedding column gets the same value for every word, so that
      queries and keys can have a direction that is the same everywhere; with the key turned ahead by one step of the
      three fastest RoPE frequencies, their product peaks one token back.
    * In each of `layers` the keys of the last group read what that head wrote (which word came before), with the
      projection that the queries apply to the word itself; and values are written back along the directions they
      were read from.
    """
    config, first = model.config, model.model.layers[0].self_attn
    dim, half = config.head_dim, config.head_dim // 2
    group = config.num_attention_heads // config.num_key_value_heads
    turn = 10000.0 ** (-torch.arange(3) / half)
    model.model.embed_tokens.weight[:, 0] = 0.1
    for head in range(group):
        first.q_proj.weight[head * dim + torch.arange(3), 0] = 0.5
    first.k_proj.weight[torch.arange(3), 0] = 0.5 * turn.cos()
    first.k_proj.weight[half + torch.arange(3), 0] = 0.5 * turn.sin()
    first.v_proj.weight[:dim, 0] = 0.0
    first.o_proj.weight[:, : group * dim] *= 2.0
    first.o_proj.weight[0, : group * dim] = 0.0
    wrote = sum(first.o_proj.weight[:, head * dim : (head + 1) * dim] for head in range(group))
    moved = wrote @ first.v_proj.weight[:dim]  # [hidden, hidden], what the head writes for the word before
    back = torch.linalg.pinv(moved, rtol=1e-4)
    slow = torch.ones(dim)
    slow[torch.arange(dim) % half < 5] = 0.3  # fast RoPE frequencies lose their match over a few tokens
    for index in layers:
        attention = model.model.layers[index].self_attn
        kv = slice((config.num_key_value_heads - 1) * dim, config.num_key_value_heads * dim)
        project = 0.1 * slow[:, None] * torch.randn(dim, config.hidden_size) @ (back @ moved)
        keys = project @ back
        attention.k_proj.weight[kv] = keys * (project.norm() / keys.norm())
        for head in range(config.num_attention_heads - group, config.num_attention_heads):
            rows = slice(head * dim, (head + 1) * dim)
            attention.q_proj.weight[rows] = project
            attention.o_proj.weight[:, rows] = attention.v_proj.weight[kv].T
