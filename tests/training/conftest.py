"""Recipes small enough for a test, files to read, and a cache that no other test sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnpatch.sandbox.text.vocabulary import build_tokenizer
from attnpatch.training.recipe import Recipe, make_recipe
from tests.tokens import byte_tokenizer

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.strip() }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def values(**changes: Any) -> dict[str, Any]:
    """The values of a good recipe; `changes` replace blocks, or are merged into `data` and `training`."""
    base: dict[str, Any] = {
        "model": "sandbox:text",
        "method": {"name": "sliding", "options": {"window": 8}},
        "lora": {},
        "data": {
            "sources": [{"task": "mixed", "sandbox": ["needle", "copy"], "lengths": [64, 128]}],
            "max_tokens": 128,
            "pack_tokens": 512,
        },
        "training": {"output_dir": "runs/x", "max_steps": 2},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if key in ("data", "training") else value
    return base


def recipe(**changes: Any) -> Recipe:
    return make_recipe(values(**changes))


def table(files: Any, **more: Any) -> dict[str, Any]:
    """A source of local files with question, answer and context."""
    columns = {"context": "{context}", "question": "{question}", "answer": "{answer}"}
    return {"task": "qa", "files": str(files), "columns": columns, **more}


@pytest.fixture(scope="session")
def sandbox_tokenizer():
    return build_tokenizer()


@pytest.fixture
def tokenizer():
    """Bytes, without a chat template."""
    return byte_tokenizer()


@pytest.fixture
def chat_tokenizer():
    """Bytes, with a chat template."""
    made = byte_tokenizer()
    made.chat_template = CHAT
    return made


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows to a JSONL file."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return path

    return write


def qa_rows(count: int, words: int = 10) -> list[dict[str, str]]:
    """Rows of growing length, each with words of its own."""
    return [
        {"context": f"c{i} " * (words + i), "question": f"which {i}?", "answer": f"answer {i}"} for i in range(count)
    ]
