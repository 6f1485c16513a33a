"""The mixture: sandbox rows from the train stream, tables read exactly, the same packs in every process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from attnpatch import sandbox
from attnpatch.sandbox.text import data as sandbox_data
from attnpatch.training import sources, tables
from attnpatch.training.mixture import Mixture
from attnpatch.training.problems import DataError

from .conftest import qa_rows, recipe, table, values

TWO = [
    {"task": "retrieval", "omega": 0.6, "sandbox": ["needle", "mqar", "copy"], "lengths": [80, 128]},
    {"task": "local", "omega": 1.0, "sandbox": {"local": {"lengths": [64], "share": 0.9}}, "prompt": "fraction:0.5"},
]


def digest(mixture: Mixture, steps) -> str:
    text = "".join(f"{step}{mixture.packs(step)}" for step in steps)
    return hashlib.sha256(text.encode()).hexdigest()


def test_sandbox_rows(sandbox_tokenizer):
    mixture = Mixture(recipe(data={"sources": TWO, "packs_per_step": 3}), sandbox_tokenizer)
    assert mixture.tasks == ["retrieval", "local"]
    assert mixture.targets == {"retrieval": 0.6, "local": 1.0}
    packs = mixture.packs(0)
    assert len(packs) == 3
    assert all(pack.tokens == sum(pack.lengths) <= 512 for pack in packs)
    found = [sample for pack in packs for sample in pack.samples]
    counts = Counter(sample.task for sample in found)
    assert abs(counts["retrieval"] - counts["local"]) <= 1
    for sample in found:
        name, length, seed = sample.id.split("/")
        options = {"share": 0.9} if name == "local" else {}
        (made,) = sandbox.samples(name, int(length), 1, "train", int(seed), **options)
        assert sample.input_ids == tuple(made.input_ids)
        assert sample.weights == tuple(made.weights)
        assert sample.prompt_end == (32 if name == "local" else min(made.answer_positions))
    assert any(weight == 0.15 for sample in found for weight in sample.weights)


def test_loss_on_answers_only(sandbox_tokenizer):
    made = recipe(data={"sources": TWO}, training={"loss_on": "answers"})
    for sample in Mixture(made, sandbox_tokenizer).packs(0)[0].samples:
        assert set(sample.weights) == {0.0, 1.0}


def test_every_epoch_makes_new_rows(sandbox_tokenizer):
    mixture = Mixture(recipe(), sandbox_tokenizer)
    found = [sample for step in range(20) for pack in mixture.packs(step) for sample in pack.samples]
    assert len({sample.input_ids for sample in found}) == len({sample.id for sample in found}) == len(found)


def test_only_the_train_stream_is_used(sandbox_tokenizer, monkeypatch):
    asked = []

    def spy(task, length, count, stream="test", seed=0, **options):
        asked.append(stream)
        return real(task, length, count, stream, seed, **options)

    real = sandbox_data.samples
    monkeypatch.setattr(sources.sandbox, "samples", spy)
    monkeypatch.setattr("attnpatch.training.data_settings.samples", spy)
    mixture = Mixture(recipe(data={"sources": TWO}), sandbox_tokenizer)
    mine = {sample.input_ids for step in range(30) for pack in mixture.packs(step) for sample in pack.samples}
    assert set(asked) == {"train"}
    for stream in ("dev", "test"):
        for name, length in (("needle", 80), ("needle", 128), ("copy", 128)):
            held_out = {tuple(one.input_ids) for one in real(name, length, 50, stream)}
            assert not mine & held_out


def test_sandbox_rows_need_the_sandbox_tokenizer(tokenizer):
    with pytest.raises(DataError, match=r"data\.sources\.0: sandbox tasks .* only model: sandbox:text"):
        Mixture(recipe(), tokenizer)


def test_steps_are_not_negative(sandbox_tokenizer):
    with pytest.raises(ValueError, match="got -1"):
        Mixture(recipe(), sandbox_tokenizer).packs(-1)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_tables(chat_tokenizer, tmp_path, suffix):
    from datasets import Dataset

    path, rows = tmp_path / f"rows.{suffix}", qa_rows(6)
    if suffix == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) if suffix == "jsonl" else f"[{','.join(lines)}]")
    mixture = Mixture(recipe(data={"sources": [table(path, shuffle=False)]}), chat_tokenizer)
    found = [sample for pack in mixture.packs(0) for sample in pack.samples]
    # Longest first inside the pack; ids name the row.
    for sample in found:
        row = int(sample.id.rpartition("#")[2]) - 1
        text = chat_tokenizer.decode(sample.input_ids)
        assert rows[row]["context"].strip() in text
        answer = chat_tokenizer.decode(sample.input_ids[sample.prompt_end :])
        assert answer == f"answer {row}<|end|>\n"
        assert sample.weights == (0.0,) + (1.0,) * (len(sample.input_ids) - 1)
    (facts,) = mixture.describe()
    assert (facts["rows"], facts["samples"], facts["rendering"]) == (6, 6, "chat template")
    assert facts["tokens"] == sum(tables_lengths(mixture))


def tables_lengths(mixture: Mixture) -> list[int]:
    return [length for source in mixture._sources for length in source.lengths]


def test_loss_on_the_answers_of_tables(chat_tokenizer, jsonl):
    made = recipe(data={"sources": [table(jsonl(qa_rows(3)))]}, training={"loss_on": "answers"})
    for sample in Mixture(made, chat_tokenizer).packs(0)[0].samples:
        trained = [i for i, weight in enumerate(sample.weights) if weight]
        assert trained == list(range(sample.prompt_end, len(sample.input_ids)))


def test_both_orders_alternate(chat_tokenizer, jsonl):
    source = table(jsonl(qa_rows(4)), order="both", shuffle=False)
    mixture = Mixture(recipe(data={"sources": [source]}), chat_tokenizer)
    for row in range(4):
        text = chat_tokenizer.decode(mixture._sources[0].sample(row, 0).input_ids)
        assert (text.index(f"c{row}") < text.index("which")) == (row % 2 == 0)


def test_several_files_limits_and_balance(chat_tokenizer, jsonl, tmp_path):
    jsonl(qa_rows(3), "a1.jsonl"), jsonl(qa_rows(30), "a2.jsonl")
    few = {**table(jsonl(qa_rows(2), "b.jsonl")), "task": "few"}
    many = {**table(tmp_path / "a*.jsonl", limit=20), "task": "many"}
    mixture = Mixture(recipe(data={"sources": [many, few]}), chat_tokenizer)
    assert [facts["rows"] for facts in mixture.describe()] == [20, 2]
    found = [sample for step in range(8) for pack in mixture.packs(step) for sample in pack.samples]
    counts = Counter(sample.task for sample in found)
    assert abs(counts["many"] - counts["few"]) <= 1
    files = {sample.id.rpartition("#")[0].rpartition("/")[2] for sample in found}
    assert files == {"a1.jsonl", "a2.jsonl", "b.jsonl"}


def test_too_long_and_too_short_are_counted(chat_tokenizer, jsonl):
    rows = [{"context": "x" * n, "question": "q", "answer": "a"} for n in (0, 10, 60, 100, 300)]
    data = {"sources": [table(jsonl(rows), shuffle=False)], "min_tokens": 45}
    (dropped,) = Mixture(recipe(data=data), chat_tokenizer).describe()
    assert (dropped["samples"], dropped["dropped_short"], dropped["dropped_long"]) == (2, 1, 2)
    cut = Mixture(recipe(data={**data, "longer": "truncate"}), chat_tokenizer)
    (facts,) = cut.describe()
    assert (facts["samples"], facts["truncated"], facts["dropped_long"]) == (4, 2, 0)
    assert max(tables_lengths(cut)) <= 128
    with pytest.raises(DataError, match=r"rows.jsonl', row 4: .* more than data.max_tokens \(128\)"):
        Mixture(recipe(data={**data, "longer": "error"}), chat_tokenizer)


GOOD = {"context": "c", "question": "q", "answer": "a"}


@pytest.mark.parametrize(
    "rows, words",
    [
        ([GOOD, '{"context": "c", "question"\n', GOOD], ("rows.jsonl", "row 2 is not JSON")),
        ([GOOD, "[1, 2]\n"], ("rows.jsonl", "row 2 is not a JSON object")),
        (
            [{"context": "c", "qestion": "q", "answer": "a"}],
            ("rows.jsonl", "row 1", "no column 'question'", "'qestion'"),
        ),
        ([GOOD, {"context": "c", "question": "q"}], ("rows.jsonl", "row 2", "column 'answer' is missing or null")),
        ([], ("rows.jsonl", "is empty")),
        ([{**GOOD, "answer": " "}], ("none of its 1 rows", "1 lack a question or an answer")),
        ([{**GOOD, "context": "x" * 500}], ("none of its 1 rows", "1 are longer than data.max_tokens (128)")),
    ],
)
def test_mistakes_in_files(chat_tokenizer, jsonl, rows, words):
    with pytest.raises(DataError) as error:
        Mixture(recipe(data={"sources": [table(jsonl(rows))]}), chat_tokenizer)
    for word in ("data.sources.0", *words):
        assert word in str(error.value)


def test_files_that_are_not_there(chat_tokenizer, tmp_path):
    for name, message in (("none.jsonl", "no file matches"), ("rows.txt", "unknown kind")):
        (tmp_path / "rows.txt").write_text("x")
        with pytest.raises(DataError, match=message):
            Mixture(recipe(data={"sources": [table(tmp_path / name)]}), chat_tokenizer)
    (tmp_path / "bad.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"bad.parquet' cannot be read: \w+"):
        Mixture(recipe(data={"sources": [table(tmp_path / "bad.parquet")]}), chat_tokenizer)


HUB = {"task": "qa", "dataset": "some/data", "columns": {"question": "{question}", "answer": "{answer}"}}


def test_data_sets_of_the_hub(chat_tokenizer, monkeypatch):
    import datasets

    rows = [*qa_rows(3), {"context": "", "question": None, "answer": "a"}]
    asked = []

    def load(*names, **options):
        asked.append((names, options))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = {**HUB, "config": "part", "split": "train[:5]", "revision": "abc", "data_files": "x/*"}
    (facts,) = Mixture(recipe(data={"sources": [source]}), chat_tokenizer).describe()
    assert asked == [(("some/data", "part"), {"split": "train[:5]", "revision": "abc", "data_files": "x/*"})]
    assert (facts["samples"], facts["dropped_empty"]) == (3, 1)


def test_data_sets_that_cannot_be_had(chat_tokenizer):
    with pytest.raises(
        DataError, match=r"'some/data:train'.* cannot be loaded.*hf download --repo-type dataset some/data"
    ):
        Mixture(recipe(data={"sources": [HUB]}), chat_tokenizer)


def test_datasets_is_needed(chat_tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "attnpatch\[train\]"'):
        Mixture(recipe(data={"sources": [HUB]}), chat_tokenizer)


def test_tables_are_tokenised_once(chat_tokenizer, jsonl, monkeypatch):
    made = recipe(data={"sources": [table(jsonl(qa_rows(4)))]})
    first = digest(Mixture(made, chat_tokenizer), range(3))

    def again(*_):
        raise AssertionError("rendered a second time")

    monkeypatch.setattr(tables, "read_conversation", again)
    assert digest(Mixture(made, chat_tokenizer), range(3)) == first
    with pytest.raises(AssertionError):  # other settings are other tokens
        Mixture(recipe(data={"sources": [table(made.data.sources[0].files, order="both")]}), chat_tokenizer)
    chat_tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(AssertionError):
        Mixture(made, chat_tokenizer)


def test_several_processes_tokenise_alike(chat_tokenizer, jsonl):
    path = jsonl(qa_rows(4))
    one = Mixture(recipe(data={"sources": [table(path)]}), chat_tokenizer)
    lengths, packs = tables_lengths(one), one.packs(1)
    jsonl([*qa_rows(4), {"context": "another file, so that nothing is cached"}])
    with pytest.raises(DataError, match=r"row 5: column 'question' is missing"):
        Mixture(recipe(data={"sources": [table(path)], "num_proc": 2}), chat_tokenizer)
    jsonl(qa_rows(4) + qa_rows(2))
    two = Mixture(recipe(data={"sources": [table(path, limit=4)], "num_proc": 2}), chat_tokenizer)
    assert (tables_lengths(two), two.packs(1)) == (lengths, packs)


def test_nothing_moves_where_there_is_no_terminal(chat_tokenizer, jsonl, capsys):
    import datasets

    Mixture(recipe(data={"sources": [table(jsonl(qa_rows(4)))]}), chat_tokenizer)
    assert capsys.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_progress(sandbox_tokenizer):
    seen = []
    Mixture(recipe(data={"sources": TWO}), sandbox_tokenizer, lambda *state: seen.append(state))
    assert [state[:2] for state in seen] == [(0, 2), (1, 2)]


PROCESS = """
import sys, json
from attnpatch.training.mixture import Mixture
from attnpatch.training.recipe import load_recipe
from attnpatch.sandbox.text.vocabulary import build_tokenizer
from tests.training.test_mixture import digest
steps = json.loads(sys.argv[2])
mixture = Mixture(load_recipe(sys.argv[1]), build_tokenizer())
by_step = {step: digest(mixture, [step]) for step in steps}
print([by_step[step] for step in sorted(by_step)])
"""


def test_the_same_packs_in_another_process_and_order(sandbox_tokenizer, tmp_path, jsonl):
    words = [{"context": "the dog sees a ball . " * n, "question": "ask", "answer": "7"} for n in range(1, 9)]
    made = values(data={"sources": [*TWO, table(jsonl(words))], "packs_per_step": 2})
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(made))
    command = [sys.executable, "-c", PROCESS, str(path), "[7, 0, 3]"]
    root = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONHASHSEED": "77", "HF_DATASETS_CACHE": str(tmp_path / "other")}
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env=env)
    mixture = Mixture(recipe(data=made["data"]), sandbox_tokenizer)
    assert run.stdout.strip() == str([digest(mixture, [step]) for step in (0, 3, 7)]), run.stderr
