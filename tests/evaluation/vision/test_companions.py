"""Decoding companions as methods of an evaluation: alone, and beside a patch."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from attnpatch import Config, decoding
from attnpatch.decoding import registry
from attnpatch.evaluation import evaluate
from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.methods import parse_method, parse_methods
from attnpatch.patching.errors import AttnPatchError


class Always(decoding.Companion):
    """Writes one token, whatever the model says."""

    name = "always"

    class Config(Config):
        token: int = 5
        seed: int = 0

    def processor(self, model, inputs):
        assert inputs["pixel_values"] is not None
        token = self.config.token

        class Processor(LogitsProcessor):
            def __call__(self, input_ids, scores):
                return torch.full_like(scores, -1.0).index_fill_(1, torch.tensor([token]), 1.0)

        return Processor()

    def settings(self, model, inputs):
        return {"logits_processor": LogitsProcessorList([self.processor(model, inputs)])}


class Single(Always):
    name, one_row = "single", True


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    found = {"always": Always, "single": Single}
    monkeypatch.setattr(decoding, "names", lambda: tuple(found))
    monkeypatch.setattr(decoding, "build", lambda name, **options: _class(found, name)(**options))


def _class(found, name):
    return found[name] if name in found else registry.companion_class(name)


def run(model, processor, data, *methods, **given):
    return evaluate(model, processor, tasks=given.pop("tasks", ["pope_random"]), methods=list(methods), limit=4,
                    data_dir=data, vision={"answer_tokens": 3}, speed_rounds=given.pop("speed_rounds", 0),
                    generation_batch_size=2, **given)  # fmt: skip


def test_alone_and_beside_a_patch(model, processor, data):
    beside = {"name": "sliding", "options": {"window": 8}, "companion": {"name": "always", "options": {"token": 6}}}
    results = run(model, processor, data, "stock", "always:token=7", beside, "single", speed_rounds=1)
    assert results.problems() == []
    assert results.run["unpatched"] is True
    cells = {cell["method"]["label"]: cell for cell in results.cells}
    assert set(cells) == {"stock", "always(token=7)", "sliding(window=8) + always", "single"}
    assert cells["always(token=7)"]["method"]["companion"] == {
        "name": "always", "options": {"token": 7, "seed": 0},
    }  # fmt: skip
    assert cells["sliding(window=8) + always"]["method"]["config"]["window"] == 8
    assert cells["single"]["batch_size"] == 1
    assert cells["always(token=7)"]["batch_size"] == 2
    assert len({cell["key"] for cell in cells.values()}) == 4
    assert len(results.run["speed"]) == 4
    again = [parse_method(one.to_dict()) for one in parse_methods(["always:token=7", beside], budgets=False)]
    assert again == parse_methods(["always:token=7", beside], budgets=False)


def test_their_options_stand_in_every_file(model, processor, data, tmp_path):
    """A companion that draws has a seed of its own, which is an option like the others."""
    beside = {"name": "stochastic", "options": {"window": 8}, "label": "both", "companion": "always:token=6;seed=3"}
    results = run(model, processor, data, "always:token=7", beside, output_path=tmp_path)
    both = next(cell["method"] for cell in results.cells if cell["method"]["label"] == "both")
    alone, drawn = {"seed": 0, "token": 7}, both["config"]
    assert isinstance(drawn["seed"], int)
    fixed = {key: value for key, value in drawn.items() if key != "seed"}
    rows = {row.method: row.config for row in results.rows}
    assert rows == {"stock": {}, "always(token=7)": alone,
                    "both": {"stochastic": fixed, "always": {"token": 6, "seed": 3}}}  # fmt: skip
    lines = (tmp_path / "summary.md").read_text().partition("## Configs")[2].strip().splitlines()
    assert [json.loads(line.split("`")[1]) for line in lines] == list(rows.values())
    with (tmp_path / "results.csv").open() as file:
        told = {line["method"]: json.loads(line["config"]) for line in csv.DictReader(file)}
    assert told == rows | {"both": {"stochastic": drawn, "always": {"token": 6, "seed": 3}}}


def test_options_of_a_skipped_cell(sandbox_model, sandbox_tokenizer):
    found = evaluate(sandbox_model, sandbox_tokenizer, tasks=["needle"], lengths=[64], methods=["always:token=7"],
                     limit=2, speed_rounds=0)  # fmt: skip
    line = next(line for line in found.records() if line["status"] == "skipped")
    assert json.loads(line["config"]) == {"seed": 0, "token": 7}


def test_what_it_writes_is_scored(model, processor, data, tmp_path):
    run(model, processor, data, "always:token=13", output_path=tmp_path)
    word = processor.tokenizer.decode([13])
    texts = [path.read_text() for path in (tmp_path / "samples").iterdir()]
    assert sum(f'"prediction": "{word} {word} {word}"' in text for text in texts) == 1


def test_tasks_that_only_read_are_skipped(sandbox_model, sandbox_tokenizer):
    found = evaluate(sandbox_model, sandbox_tokenizer, tasks=["needle"], lengths=[64], methods=["always"], limit=2,
                     speed_rounds=0)  # fmt: skip
    cell = next(cell for cell in found.cells if cell["method"]["name"] == "always")
    assert cell["status"] == "skipped"
    assert "acts while attnpatch writes text" in cell["reason"]


def test_bad_requests():
    with pytest.raises(AttnPatchError, match="toke"):
        parse_method("always:toke=3")
    with pytest.raises(AttnPatchError, match=r"unknown method 'alwys'. Did you mean 'always'"):
        parse_method("alwys")
    with pytest.raises(UsageError, match="cannot have another one"):
        parse_method({"name": "always", "companion": "single"})
    with pytest.raises(AttnPatchError, match="unknown companion 'alway'"):
        parse_method({"name": "stock", "label": "x", "companion": "alway"})
    with pytest.raises(UsageError, match="unknown key 'option' in a companion"):
        parse_method({"name": "stock", "label": "x", "companion": {"name": "always", "option": 1}})
