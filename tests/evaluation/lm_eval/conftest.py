"""A tiny model, a byte-level tokenizer, and lm-eval's tasks from the folder beside this file: no download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.evaluation.conftest import byte_tokenizer

TASK_FILES = Path(__file__).parent / "task_files"
THREE = ("toy_gen", "toy_mc", "toy_roll")


@pytest.fixture(scope="session")
def model():
    """Random, with weights large enough for attention to change the answers; tests leave it without patches."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=512, bos_token_id=256, eos_token_id=257,
        pad_token_id=258, initializer_range=0.3,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|bos|>{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory, model, tokenizer) -> Path:
    """Both as a checkpoint."""
    path = tmp_path_factory.mktemp("lm-eval-checkpoint")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def manager():
    from attnpatch.evaluation.lm_eval import names

    return names.manager((str(TASK_FILES),), False)


@pytest.fixture
def answers(manager, monkeypatch):
    """`answers(lm, limit=4)`: results and samples of the three tasks, by lm-eval's own engine."""
    import lm_eval.api.task
    from lm_eval import evaluate

    monkeypatch.setattr(lm_eval.api.task, "tqdm", lambda items, **_: items)

    def run(lm, names=THREE, limit=4):
        tasks = {name: manager.load(name)["tasks"][name] for name in names}
        for task in tasks.values():
            task.set_config("num_fewshot", 0)
        found = evaluate(lm, {"tasks": tasks}, limit=limit, bootstrap_iters=0)
        scores = {(task, name): value for task, metrics in found["results"].items() for name, value in metrics.items()}
        replies = {name: [sample["resps"] for sample in found["samples"][name]] for name in names}
        return scores, replies

    return run
