"""Every recipe that ships trains: two steps on a tiny model of the same architecture, on rows of the same columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from attnpatch.training.recipe import Recipe, load_recipe, make_recipe, recipe_names
from tests.tokens import byte_tokenizer

from .conftest import CHAT
from .runs import log_of, run, save_model

TEXT = "The mayor opened the new bridge on Monday. "
ROWS: dict[str, dict[str, Any]] = {
    "nvidia/ChatQA2-Long-SFT-data": {"question": f"User: {TEXT * 3} What opened? Assistant:", "answer": "A bridge."},
    "dgslibisey/MuSiQue": {
        "paragraphs": [
            {"idx": 0, "title": "One", "paragraph_text": TEXT, "is_supporting": True},
            {"idx": 1, "title": "Two", "paragraph_text": TEXT.upper(), "is_supporting": False},
        ],
        "question": "Who opened it?",
        "answer": "the mayor",
    },
    "ccdv/govreport-summarization": {"report": TEXT * 4, "summary": "A bridge opened."},
    "EdinburghNLP/xsum": {"document": TEXT * 2, "summary": "A bridge.", "id": "1"},
}
SHAPE = {
    "vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024,
}  # fmt: skip
CONFIGS = {
    "meta-llama/Llama-3.1-8B-Instruct": lambda: tf.LlamaConfig(**SHAPE),
    "Qwen/Qwen3-4B": lambda: tf.Qwen3Config(**SHAPE, head_dim=8),
    "Qwen/Qwen3-8B": lambda: tf.Qwen3Config(**SHAPE, head_dim=8),
}
SMALLER = {"flux": {"local": 16, "sink": 2}, "stochastic": {"window": 32, "local": 8}}


def save_tiny(name: str, folder: Path) -> Path:
    if name == "sandbox:text":
        return save_model(folder)
    torch.manual_seed(0)
    tf.AutoModelForCausalLM.from_config(CONFIGS[name]()).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


def shrunk(name: str, folder: Path) -> Recipe:
    """The recipe with a tiny model, local rows for its data sets, and small numbers; all else as it ships."""
    values = load_recipe(name).model_dump(mode="json", exclude_unset=True)
    values["model"] = str(save_tiny(values["model"], folder / "model"))
    if values["method"]["name"] != "sliding":
        values["method"]["options"].update(SMALLER[values["method"]["name"]])
    data = values["data"]
    for source in data["sources"]:
        if "dataset" in source:
            file = folder / (source["dataset"].replace("/", "--") + ".jsonl")
            rows = [ROWS[source.pop("dataset")]] * 3
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            source["files"] = str(file)
            source.pop("config", None)
        else:
            source["lengths"] = [128]
    data.update(max_tokens=400, pack_tokens=800, min_tokens=2, packs_per_step=2)
    data.pop("num_proc", None)
    values["training"].update(output_dir=str(folder / "out"), max_steps=2)
    if (values.get("router") or {}).get("pool"):
        values["router"]["pool"] = 8
    return make_recipe(values, name)


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_train(name, tmp_path):
    given, original = shrunk(name, tmp_path), load_recipe(name)
    done = run(given)
    assert (done.step, done.finished) == (2, True)
    lines = log_of(done.folder)
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["nll"] > 0 and line["grad_norm"] > 0 for line in lines)
    if original.router is not None:
        assert (done.folder / "router" / "attnpatch.safetensors").exists()
        assert lines[0]["omega"].keys() == {source.task for source in original.data.sources}
        saved = json.loads((done.folder / "router" / "attnpatch_config.json").read_text())
        assert saved["config"]["sparse"] == original.method.options["sparse"]
    if original.lora is not None:
        assert (done.folder / "adapter" / "adapter_model.safetensors").exists()


def test_all_data_sets_of_the_recipes_have_rows_here():
    used = {source.dataset for name in recipe_names() for source in load_recipe(name).data.sources if source.dataset}
    assert used == ROWS.keys()
