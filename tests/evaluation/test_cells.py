"""Cells on disk: keys that cover everything, atomic writes, JSON that every parser reads."""

from __future__ import annotations

import json
import os

import pytest

from attnpatch.evaluation import cells
from attnpatch.evaluation.cells import CellStore, canonical_json, cell_seed, digest, without_nan
from attnpatch.evaluation.loading import MemorySource
from attnpatch.evaluation.plan import Planner
from attnpatch.evaluation.suites import make_suite


def leaves(value, path=()):
    """Every path to a leaf of nested dicts."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path


def changed(fields, path):
    copy = json.loads(json.dumps(fields))
    place = copy
    for key in path[:-1]:
        place = place[key]
    old = place[path[-1]]
    place[path[-1]] = f"{old}x" if isinstance(old, str) else (not old if isinstance(old, bool) else (old or 0) + 1)
    return copy


def plan(model, tokenizer, **given):
    values = {
        "methods": ["stochastic"],
        "tasks": ["needle"],
        "lengths": [96],
        "budgets": [12],
        "limit": 2,
        "seeds": [3],
    }
    return Planner(make_suite(**{**values, **given}), MemorySource(model, tokenizer)).cells()[-1]


def test_key_depends_on_every_field(sandbox_model, sandbox_tokenizer):
    cell = plan(sandbox_model, sandbox_tokenizer)
    paths = list(leaves(cell.fields))
    named = {"/".join(path) for path in paths}
    assert {
        "model/fingerprint", "model/revision", "model/dtype", "model/attn_implementation", "model/tokenizer",
        "method/name", "method/config/window", "method/config/seed", "method/config/sink", "task/name",
        "task/version", "task/documents", "length", "seed", "data_seed", "limit", "batch_size",
        "versions/attnpatch", "versions/torch", "versions/transformers", "versions/attnpatch_code",
    } <= named  # fmt: skip
    keys = {digest(changed(cell.fields, path)) for path in paths}
    assert len(keys) == len(paths)
    assert cell.key not in keys
    assert digest(json.loads(json.dumps(cell.fields))) == cell.key


@pytest.mark.parametrize(
    "given",
    [
        {"methods": ["stochastic:sink=4"]},
        {"budgets": [13]},
        {"tasks": ["copy"]},
        {"lengths": [97]},
        {"limit": 3},
        {"seeds": [4]},
        {"data_seed": 1},
        {"batch_size": 3},
    ],
    ids=lambda given: next(iter(given)),
)
def test_key_follows_the_request(sandbox_model, sandbox_tokenizer, given):
    assert plan(sandbox_model, sandbox_tokenizer, **given).key != plan(sandbox_model, sandbox_tokenizer).key


def test_key_follows_the_weights(sandbox_model, sandbox_tokenizer):
    import copy

    other = copy.deepcopy(sandbox_model)
    other.model.layers[1].mlp.down_proj.weight.data.mul_(1.01)
    assert plan(other, sandbox_tokenizer).key != plan(sandbox_model, sandbox_tokenizer).key


def test_cell_seed_is_the_first_four_bytes_of_sha256():
    assert cell_seed(0, "stochastic", "needle", 512) == 2330907604
    assert len({cell_seed(*args) for args in [(0, "a", "b", 1), (1, "a", "b", 1), (0, "a", "b", 2)]}) == 3


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": 1, "a": [True, None]}) == '{"a":[true,null],"b":1}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_nan_becomes_null():
    assert without_nan({"a": [float("nan"), 1.0], "b": (float("inf"),)}) == {"a": [None, 1.0], "b": [None]}


def test_store_reads_what_it_wrote(tmp_path):
    store = CellStore(tmp_path)
    store.write({"key": "k", "status": "ok", "value": float("nan")}, [{"id": "0"}])
    assert store.read("k") == {"key": "k", "status": "ok", "value": None}
    assert store.samples_path("k").read_text() == '{"id": "0"}\n'
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("status", ["error", "skipped"])
def test_unfinished_cells_are_run_again(tmp_path, status):
    store = CellStore(tmp_path)
    store.write({"key": "k", "status": status}, [])
    assert store.read("k") is None


@pytest.mark.parametrize(
    "text", ["", '{"key": "k", "status": "o', "[]", '{"key": "other", "status": "ok"}', "\xff\xfe"]
)
def test_half_written_cell_counts_as_missing(tmp_path, text):
    store = CellStore(tmp_path)
    store.path("k").parent.mkdir()
    store.path("k").write_text(text, encoding="latin-1")
    assert store.read("k") is None


def test_a_crash_while_writing_leaves_the_old_cell(tmp_path, monkeypatch):
    store = CellStore(tmp_path)
    store.write({"key": "k", "status": "ok", "value": 1}, [])

    def crash(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="disk full"):
        store.write({"key": "k", "status": "ok", "value": 2}, [])
    assert store.read("k")["value"] == 1


def test_samples_are_written_before_the_cell(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(cells, "write_atomically", lambda path, text: written.append(path.parent.name))
    CellStore(tmp_path).write({"key": "k", "status": "ok"}, [{"id": "0"}])
    assert written == ["samples", "cells"]


def test_what_a_killed_run_left_is_swept(tmp_path):
    store = CellStore(tmp_path)
    store.write({"key": "k", "status": "ok"}, [])
    old, young = tmp_path / "cells" / "a.json.0f.tmp", tmp_path / "cells" / "b.json.1f.tmp"
    for path in (old, young):
        path.write_text("{")
    os.utime(old, (1, 1))
    store.sweep()
    assert not old.exists()
    assert young.exists()
    assert store.read("k") is not None


def test_a_writer_that_fails_leaves_nothing_behind(tmp_path):
    def fail():
        with cells.writing(tmp_path / "picture.png") as path:
            path.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())
