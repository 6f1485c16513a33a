"""The packaged model: it loads, it does its tasks, and damage is reported in one sentence."""

from __future__ import annotations

import shutil

import pytest
import torch

from attnpatch import sandbox
from attnpatch.sandbox.text.score import evaluate_card, score

# Measured floors at 512 tokens, far enough below the card's figures for a few rows.
FLOORS = {
    "needle": 0.9,
    "needles16": 0.9,
    "repeated": 0.9,
    "mqar": 0.9,
    "chain": 0.9,
    "copy": 0.9,
    "passkey": 0.85,
    "local": 0.95,
}


@pytest.fixture(scope="module")
def text():
    return sandbox.load("text")


def test_it_is_a_real_transformers_model_and_tokenizer(text):
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    model, tokenizer = text
    assert isinstance(model, Qwen3ForCausalLM)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert model.dtype == torch.float32
    assert not model.training
    assert model.config.max_position_embeddings >= 4096
    assert sandbox.load("text", dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_the_folder_is_small_and_complete():
    folder = sandbox.path("text")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6
    for name in ("README.md", "train_log.jsonl", "training_config.json", "generation_config.json"):
        assert (folder / name).is_file(), name
    assert not (folder / "checkpoint.pt").exists()


@pytest.mark.parametrize(("task", "floor"), FLOORS.items())
def test_it_does_its_tasks(text, task, floor):
    assert score(text[0], sandbox.samples(task, 512, 12)).accuracy >= floor


def test_surnames_need_the_earlier_mention(text):
    rows = sandbox.samples("perplexity", 512, 6)
    result = score(text[0], rows)
    assert result.perplexity < 4
    assert result.long_range < 2


def test_it_answers_a_prompt_by_generation(text):
    model, tokenizer = text
    prompt = "key bax 17 ; the small dog sees a red ball . key fez 88 ; the old cow takes a green lamp . ask bax"
    out = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=1, do_sample=False)
    assert tokenizer.decode(out[0, -1:]) == "17"


def test_the_card_has_a_cell_per_task(text):
    model, tokenizer = text
    cells = evaluate_card(model, tokenizer, lengths=(128,), count=1)
    assert [cell["task"] for cell in cells] == list(sandbox.TASKS)


class Foreign:
    def get_vocab(self):
        return {"hello": 0}


def test_a_foreign_tokenizer_is_refused(text):
    with pytest.raises(ValueError, match="sandbox vocabulary"):
        evaluate_card(text[0], Foreign(), lengths=(128,), count=1)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"unknown sandbox model 'txet'. Did you mean 'text'\? Allowed: text"):
        sandbox.load("txet")
    with pytest.raises(ValueError, match="unknown sandbox model"):
        sandbox.path(3)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    folder = tmp_path / "text"
    shutil.copytree(sandbox.path("text"), folder)
    monkeypatch.setattr(sandbox, "path", lambda name: folder)
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(RuntimeError, match=rf"lacks .*{name}.*attnpatch sandbox train text"):
        sandbox.load("text")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_is_reported(copied, name):
    whole = (copied / name).read_bytes()
    (copied / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RuntimeError, match="attnpatch sandbox train text"):
        sandbox.load("text")


def test_weights_that_are_not_the_models_are_refused(copied):
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(2)}, copied / "model.safetensors")
    with pytest.raises(RuntimeError, match="does not hold the weights"):
        sandbox.load("text")
