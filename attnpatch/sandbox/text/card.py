"""The model card of the sandbox text model, with its measured table."""

from __future__ import annotations

import json
import math
from pathlib import Path

from attnpatch.sandbox.text.data import TASKS
from attnpatch.sandbox.text.score import evaluate_card

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
tags: [attnpatch, sandbox, synthetic]
---

# attnpatch sandbox: text

A small `Qwen3ForCausalLM` ({parameters:,} parameters, {layers} layers, hidden {hidden}, {heads} query heads,
{kv_heads} key-value heads of {head_dim}) trained from scratch on a made-up word-level language, so that every
mechanism of attnpatch can be tried without a download. It exercises mechanisms.
Its numbers do **not** predict what a method does to a large model.

```python
from attnpatch import sandbox
model, tokenizer = sandbox.load("text")
```

## Training

`{command}`: seed {seed}, {step} steps, {tokens:,} tokens, {minutes} minutes on {threads} CPU thread(s),
torch {torch}, transformers {transformers}. All settings are in `training_config.json`, the course of the run in
`train_log.jsonl`. The generators, the curriculum (lengths 64 to 2048, climbed by accuracy) and the loss are in
`attnpatch/sandbox/text/`. The start is not pure noise: two heads of layer 0 start as previous-token heads and two
each of layers 2 and 4 as matching heads (`model.py` says how), because induction had not formed by chance after ten
minutes; every weight is then trained. In two thirds of the training steps layer 2 or layer 4 runs with a window of at
most {narrow} keys, so that both learn to retrieve and the model has more than one retrieval layer.

## Measured

Full attention, float32, {rows} rows of the test stream per cell (training rows have their own seeds).
Accuracy is per answer token, teacher forced; "all" is the share of rows with every answer right; mqar in brackets:
argmax over the row's candidate values only. Perplexity is of the story's predictable tokens, and in brackets of the
surnames that only an earlier mention tells.

{table}

Made by `python -m attnpatch.sandbox.text.card {count}`.

## Limits
{limits}
"""

_LIMITS = """
* It knows its own {words} words only; other words become `<unk>`.
* Trained to length 2048; longer rows (positions to 4096) are untested.
* Copied and hidden sequences (copy, passkey) hold no word twice, so one matching token finds the place.
* The distance between fact and question, not reasoning, is what the tasks measure.
"""


def table(cells: list[dict]) -> str:
    """The cells of `evaluate_card` as a Markdown table, one row per task and one column per length."""
    lengths = sorted({cell["length"] for cell in cells})
    by = {(cell["task"], cell["length"]): cell for cell in cells}
    lines = [
        "| task | what | " + " | ".join(str(length) for length in lengths) + " |",
        "| --- | --- |" + " --- |" * len(lengths),
    ]
    for name, spec in TASKS.items():
        texts = [_cell(by[name, length]) for length in lengths]
        lines.append(f"| {name} | {spec.description} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _cell(cell: dict) -> str:
    if cell["metric"] == "perplexity":
        return f"{cell['perplexity']:.2f} ({cell['long_range']:.2f})"
    text = f"{cell['accuracy']:.3f}, all {cell['exact']:.2f}"
    return text + f" ({cell['restricted']:.3f})" if cell["task"] == "mqar" else text


def limits(cells: list[dict], floor: float = 0.95) -> str:
    """The limits, with every accuracy below `floor` named."""
    weak = [
        f"{cell['task']} at {cell['length']}: {cell['accuracy']:.3f}"
        for cell in cells
        if cell["metric"] == "accuracy" and cell["accuracy"] < floor
    ]
    from attnpatch.sandbox.text.vocabulary import WORDS

    named = f"* Below {floor} even with full attention: {'; '.join(weak)}.\n" if weak else ""
    return (_LIMITS.format(words=len(WORDS)) + named).rstrip()


def write_card(folder: Path, count: int = 100) -> str:
    """Measure the model in `folder` and write its README.md and card.json; returns the table."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    cells = evaluate_card(model, AutoTokenizer.from_pretrained(folder), count=count)
    settings = json.loads((folder / "training_config.json").read_text())
    config, shown = model.config, table(cells)
    text = _CARD.format(
        parameters=settings["parameters"],
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        narrow=settings["recipe"]["narrow_window"],
        rows=count,
        count=count,
        table=shown,
        limits=limits(cells),
        **{key: settings[key] for key in ("command", "seed", "step", "tokens", "minutes", "threads")},
        **settings["versions"],
    )
    (folder / "README.md").write_text(text)
    clean = [{k: None if isinstance(x, float) and math.isnan(x) else x for k, x in cell.items()} for cell in cells]
    (folder / "card.json").write_text("[\n" + ",\n".join(map(json.dumps, clean)) + "\n]\n")
    return shown


if __name__ == "__main__":
    import sys

    from attnpatch.sandbox import path

    sys.stdout.write(write_card(path("text"), *(int(argument) for argument in sys.argv[1:2])) + "\n")
