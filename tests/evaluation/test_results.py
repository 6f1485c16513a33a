"""Tables, files and pictures made from cells."""

from __future__ import annotations

import csv
import io
import json
import math
import sys

import pytest
from rich.console import Console

from attnpatch.evaluation import Results, UsageError
from attnpatch.evaluation.compare import compare_markdown
from attnpatch.evaluation.headline import delta_tables, is_detail, short_tables
from attnpatch.evaluation.tables import headline_markdown, rich_tables


@pytest.fixture(scope="module")
def run(tmp_path_factory, sandbox_model, sandbox_tokenizer):
    from attnpatch.evaluation import evaluate

    folder = tmp_path_factory.mktemp("results")
    results = evaluate(
        sandbox_model, sandbox_tokenizer, methods=["sliding", "stochastic"], lengths=[200], seeds=[0, 1],
        tasks=["needle", "needles16", "perplexity"], budgets=[20, 40], limit=4, output_path=folder,
        speed_rounds=1,
    )  # fmt: skip
    return results, folder


def reject(token):
    raise AssertionError(f"{token} is not JSON")


def test_files(run):
    _, folder = run
    names = {"results.json", "results.csv", "summary.md", "cells", "samples", "plots", "speed.json", "index.html"}
    assert {path.name for path in folder.iterdir()} == names
    assert {path.name for path in (folder / "plots").iterdir()} == {"accuracy_vs_budget.png", "needle_depth.png"}
    for path in folder.rglob("*.json"):
        json.loads(path.read_text(), parse_constant=reject)
    for path in (folder / "plots").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_depths_of_budgets_that_differ_by_length(small_run, tmp_path):
    """A share of the length is another budget at every length: each picture holds the lines of its own length."""
    results = small_run(methods=["sliding"], tasks=["needle"], lengths=[96, 192], seeds=[0])
    assert {cell["budget"]["target"] for cell in results.cells} == {None, 12, 24}
    drawn = results.plot(tmp_path)
    assert {path.name for path in drawn} == {"accuracy_vs_budget.png", "needle_depth.png"}


def test_nan_never_reaches_the_file(tmp_path, run):
    results, _ = run
    spoiled = Results(json.loads(json.dumps(results.cells)), {"seconds": math.nan})
    spoiled.cells[0]["seconds"] = math.inf
    spoiled.save(tmp_path)
    data = json.loads((tmp_path / "results.json").read_text(), parse_constant=reject)
    assert data["run"]["seconds"] is None


def test_load_gives_the_same_rows(run):
    results, folder = run
    assert Results.load(folder).rows == results.rows
    assert Results.load(folder / "results.json").to_markdown() == results.to_markdown()


@pytest.mark.parametrize("content", [None, "{", "[]", '{"cells": 3}'])
def test_load_refuses_other_files(tmp_path, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UsageError, match=r"results\.json"):
        Results.load(tmp_path)


def test_rows(run):
    results, _ = run
    rows = [row for row in results.rows if row.task == "needles16" and row.metric == "accuracy"]
    assert [(row.method, row.budget, row.seeds) for row in rows] == [
        ("stock", None, 1), ("sliding", 20, 1), ("sliding", 40, 1), ("stochastic", 20, 2), ("stochastic", 40, 2),
    ]  # fmt: skip
    for row in rows:
        assert row.low <= row.value <= row.high
        assert row.small
        assert (row.delta is None) == (row.method == "stock")
        assert (row.sd is None) == (row.seeds == 1)
    assert {row.metric for row in results.rows if row.task == "perplexity"} == {"perplexity", "long_range_perplexity"}


def test_seeds_are_averaged_before_documents(run):
    results, _ = run
    row = next(r for r in results.rows if (r.method, r.budget, r.task) == ("stochastic", 20, "perplexity"))
    cells = [
        cell for cell in results.cells
        if cell["task"]["name"] == "perplexity" and cell["budget"]["target"] == 20
        and cell["method"]["label"] == "stochastic"
    ]  # fmt: skip
    assert len(cells) == 2
    sums = [sum(pair) / 2 for pair in zip(*(cell["scores"]["perplexity"]["sums"] for cell in cells), strict=True)]
    weights = cells[0]["scores"]["perplexity"]["weights"]
    assert row.value == pytest.approx(math.exp(sum(sums) / sum(weights)))


def made_up(method, budget, hits, seed=None):
    return {
        "status": "ok", "key": f"{method}{seed}", "model": {"id": "m"}, "length": 8, "seed": seed,
        "method": {"name": method, "label": method, "config": {}}, "documents": [str(i) for i in range(len(hits))],
        "task": {"name": "needle", "documents": "d", "chance": None, "description": "", "metric": "accuracy"},
        "budget": {"target": budget, "mean_keys": 4.0, "decode_mean_keys": None}, "depth": None, "peak_memory": None,
        "scores": {"accuracy": {"sums": hits, "weights": [1] * len(hits)}}, "speed": {"prefill": None, "decode": None},
        "metrics": {"accuracy": {"value": sum(hits) / len(hits), "low": 0, "high": 1}}, "seconds": 0, "reason": None,
    }  # fmt: skip


def test_best_is_marked_only_when_it_is():
    good, bad = [1] * 36 + [0] * 4, [1] * 4 + [0] * 36
    rows = Results([made_up("stock", None, good), made_up("a", 4, good), made_up("b", 4, bad)]).rows
    assert {row.method: row.best for row in rows} == {"stock": False, "a": True, "b": False}
    assert [row.significant for row in rows] == [False, False, True]
    assert rows[2].p < 1e-6
    rows = Results([made_up("stock", None, good), made_up("a", 4, good), made_up("b", 4, good)]).rows
    assert not any(row.best for row in rows)


def test_markdown(run):
    results, _ = run
    text = results.to_markdown()
    assert "| stochastic @20 | 20.0 |" in text
    assert "n small" in text
    assert "bit for bit the same" in text
    assert '"window": 20' in text
    table = headline_markdown(results)
    assert all(line.startswith(("|", "**")) for line in table.strip().splitlines() if line)


def test_terminal_tables_hold_what_the_short_tables_hold(run):
    results, _ = run
    tables = [*short_tables(results), *delta_tables(results)]
    for shown, table in zip(rich_tables(results, 200), tables, strict=True):
        assert (len(shown.columns), shown.row_count) == (len(table.columns) + 1, len(table.lines))
    scores, costs = short_tables(results)
    assert scores.columns == ["keys", "needle", "needles16", "ppl", "ppl names"]
    assert costs.columns == ["keys", "prefill tok/s", "of stock", "decode tok/s", "of stock"]
    assert [line.name for line in costs.lines] == [
        "stock", "sliding @20", "stochastic @20", "sliding @40", "stochastic @40",
    ]  # fmt: skip
    assert costs.lines[0].cells[2].text == "1.00"


def printed(results, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for table in rich_tables(results, width):
        console.print(table)
    return console.file.getvalue()


def test_a_narrow_terminal_gets_more_tables_and_loses_nothing(run):
    results, _ = run
    assert len(rich_tables(results, 50)) > len(rich_tables(results, 200)) == 3
    for width, tables in ((40, short_tables(results)), (50, [*short_tables(results), *delta_tables(results)])):
        text = printed(results, width)
        assert "…" not in text
        assert all(cell.text in text for table in tables for line in table.lines for cell in line.cells)


def test_entries_wider_than_the_terminal_are_folded_and_not_cut(run):
    results, _ = run
    words = printed(results, 30).split()
    assert "…" not in "".join(words)
    for line in delta_tables(results)[0].lines:
        parts = [part for cell in line.cells for part in cell.text.split()]
        assert all(words.count(part) >= parts.count(part) for part in parts)


def test_differences_to_stock_are_printed_as_the_summary_tells_them(run):
    """On a terminal and in a pipe; the summary has them task by task, and not a second time."""
    results, _ = run
    rows = [row for row in results.rows if row.delta is not None and not is_detail(row)]
    assert len(rows) == 4 * 4  # two methods at two budgets, four metrics
    summary, shown = results.to_markdown(), (printed(results, 160), headline_markdown(results))
    for row in rows:
        delta, interval = f"{row.delta:+.3f}", f"{row.delta_low:+.3f} to {row.delta_high:+.3f}"
        assert f"| {delta} | {interval} |" in summary
        assert all(f"{delta} ({interval})" in text for text in shown)
    assert all("Difference to stock with its 95 % interval, 200 tokens" in text for text in shown)
    assert "Difference to stock" not in summary


def test_differences_of_every_task_and_length():
    """RULER's tasks have a table of their own for scores; metrics without an interval have a difference alone."""
    cells = []
    for task, length in [("needle", 8), ("ruler_vt", 8), ("needle", None)]:
        for method, hits in [("stock", [1] * 40), ("a", [1] * 20 + [0] * 20)]:
            cell = made_up(method, None, hits)
            cells.append({**cell, "length": length, "task": {**cell["task"], "name": task}})
    cells[-1]["scores"] = cells[-2]["scores"] = {}
    short, own = delta_tables(Results(cells))
    assert (short.columns, own.columns) == (["keys", "needle", "ruler_vt"], ["keys", "needle"])
    assert [[line.name for line in table.lines] for table in (short, own)] == [["a"], ["a"]]
    assert all(cell.text.startswith("-0.500 (-0.") and cell.differs for cell in short.lines[0].cells[1:])
    assert own.lines[0].cells[1].text == "-0.500"
    assert delta_tables(Results(cells[:1])) == []


def test_marks():
    good, bad = [1] * 36 + [0] * 4, [1] * 4 + [0] * 36
    text = headline_markdown(Results([made_up("stock", None, good), made_up("a", 4, good), made_up("b", 4, bad)]))
    assert "| a @4 | 4.0 | **0.90** |" in text
    assert "| b @4 | 4.0 | 0.10\\* |" in text


def test_csv(run):
    results, _ = run
    lines = list(csv.DictReader(io.StringIO(results.to_csv())))
    assert len(lines) == sum(len(cell["metrics"]) for cell in results.cells)
    assert {line["status"] for line in lines} == {"ok"}
    assert float(lines[0]["mean_keys"]) == 100.5


def test_pandas(run):
    pytest.importorskip("pandas")
    results, _ = run
    frame = results.to_pandas()
    assert len(frame) == len(results.rows)
    assert {"method", "value", "low", "high", "mean_keys"} <= set(frame.columns)


@pytest.mark.parametrize("missing", ["matplotlib", "pandas"])
def test_missing_extra(run, tmp_path, monkeypatch, missing):
    results = Results(run[0].cells, dict(run[0].run))
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "pandas":
        with pytest.raises(ImportError, match=r"attnpatch\[eval\]"):
            results.to_pandas()
        return
    with pytest.raises(ImportError, match=r"attnpatch\[eval\]"):
        results.plot(tmp_path)
    names = ["results.json", "results.csv", "summary.md", "index.html"]
    assert [path.name for path in results.save(tmp_path)] == names
    assert "matplotlib" in results.run["plots"]


def test_compare(run):
    results, _ = run
    text = compare_markdown(results, results)
    assert "| sliding @20 | needle | 200 | accuracy |" in text
    assert "+0.000 to +0.000" in text
    with pytest.raises(UsageError, match="nothing to compare"):
        compare_markdown(results, Results([]))


def test_empty_results_still_print():
    assert "no cell is ok" in Results([]).to_markdown()
