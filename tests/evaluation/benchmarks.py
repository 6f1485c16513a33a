"""A few made-up documents under the names of public benchmarks, as lm-eval task files: same metrics, no download."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

CODE = """
import datasets


def choices(**_):
    rows = [{"question": f"{i} or {i + 1}?", "options": [" a", " bc"], "label": i % 2} for i in range(3)]
    return {"test": datasets.Dataset.from_list(rows)}


def texts(**_):
    rows = [{"question": f"The key is {i}. The key is", "answer": f" {i}"} for i in range(3)]
    return {"test": datasets.Dataset.from_list(rows)}


def score(doc, results):
    return {"score": float(doc["answer"].strip() in results[0])}


def passed(references, predictions):
    return {"pass@1": 0.5}
"""
CHOICE = {
    "custom_dataset": "!function code.choices",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "label",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
TEXT = {
    "custom_dataset": "!function code.texts",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"do_sample": False, "max_gen_toks": 4, "until": []},
}
SCORE = {
    **TEXT,
    "process_results": "!function code.score",
    "metric_list": [{"metric": "score", "aggregation": "mean", "higher_is_better": True}],
}
PASS = {
    **TEXT,
    "metric_list": [{"metric": "!function code.passed", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [{"name": "create_test", "filter": [{"function": "take_first"}]}],
}


def write_tasks(folder: Path, tasks: dict[str, dict], groups: dict[str, tuple[list[str], str]]) -> Path:
    """Task files for `{name: body}` and `{group: (members, metric)}`."""
    folder.mkdir(parents=True)
    (folder / "code.py").write_text(CODE)
    for name, body in tasks.items():
        text = yaml.safe_dump({"task": name, "test_split": "test", "metadata": {"version": 1.0}, **body})
        (folder / f"{name}.yaml").write_text(re.sub(r"'(!function [^']*)'", r"\1", text))  # YAML quotes the sign
    for name, (members, metric) in groups.items():
        rule = {"metric": metric, "aggregation": "mean", "weight_by_size": True}
        body = {"group": name, "task": members, "aggregate_metric_list": [rule], "metadata": {"version": 1.0}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(body))
    return folder
