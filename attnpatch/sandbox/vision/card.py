"""The model card of the sandbox vision model, with its measured table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attnpatch.sandbox.vision.questions import SPLITS
from attnpatch.sandbox.vision.scenes import COUNTS, FAINT, ONE_FAINT, scenes
from attnpatch.sandbox.vision.score import evaluate
from attnpatch.sandbox.vision.vocabulary import PAIRS, WORDS

SETS = ("biased", "anti")

_CARD = """---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
tags: [attnpatch, sandbox, synthetic]
---

# attnpatch sandbox: vision

A small `LlavaForConditionalGeneration` ({parameters:,} parameters: a CLIP tower of {vision_layers} layers x
{vision_hidden}, {image_tokens} image tokens, a Llama of {layers} layers x {hidden} with {heads} query heads and
{kv_heads} key-value heads of {head_dim}) trained from scratch to describe coloured shapes on a 3 x 3 grid and to
answer whether one is there. It has learned a language prior that its training scenes carry ({pairs} usually stand
together), and so it sometimes tells of a shape that is not there. It exercises mechanisms.
Its numbers do **not** predict what a method does to a large model.

```python
from attnpatch import sandbox
from attnpatch.sandbox.vision import scenes

model, processor = sandbox.load("vision")
scene = scenes("anti", 1, split="dev")[0]
content = [{{"type": "image", "image": scene.image}}, {{"type": "text", "text": "Describe the image."}}]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": content}}],
    add_generation_prompt=True,
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
print(processor.decode(model.generate(**inputs, max_new_tokens=40)[0], skip_special_tokens=True))
```

## Training

`{command}` (commit {commit}): seed {seed}, {step} steps, {tokens:,} tokens of rows, {minutes} minutes on {threads} CPU
thread(s), torch {torch}, transformers {transformers}. All settings are in `training_config.json`, the course of the
run in `train_log.jsonl`; generators, rows and losses are in `attnpatch/sandbox/vision/`. First the tower and the
projector learn to name the shape and the colour of every patch with the word embeddings of the language model (a
stand-in for the pretraining of CLIP), then everything learns captions and questions; the questions weigh
{late_question_loss} in the last {late_share:.0%} of the steps.

## Measured

Greedy decoding, float32, {count} scenes per set of the **dev** stream (training scenes have seeds of their own, and
the test stream is left to the evaluation). "biased": distributed as the training scenes. "anti": no shape stands with
its usual partner. Both hold {fewest} to {most} objects, equally often; in {one_faint:.0%} of the scenes one object is
faint (contrast {faint[0]} to {faint[1]}), and there the prior decides. Every question is a prompt of its own, and as
many have the answer yes as no.

{table}

Recall is of objects with their colour. CHAIR_i: share of the named shapes that are not there; CHAIR_s: share of the
captions that name one. Made by `attnpatch sandbox card vision --rows {count}`.

## Limits

* It knows its own {words} words only; other words become `<unk>`. Text is lowered, marks are split off.
* It was trained with one image per prompt, one turn, and the two kinds of questions in
  `attnpatch.sandbox.vision.vocabulary`; more images or turns run, but nothing says how well.
* The processor's image part is `CLIPImageProcessorPil`: since version 5 of transformers `CLIPImageProcessor` needs
  torchvision, and its twin on PIL and numpy does not. `AutoProcessor` picks whichever the machine can run.
"""


def table(cells: list[dict[str, Any]]) -> str:
    """The cells of `measure` as a Markdown table, one row per metric and one column per set."""
    rows = [
        ("captions: recall of objects", lambda cell: f"{cell['recall']:.3f}"),
        ("captions: recall of objects that are not faint", lambda cell: f"{cell['clear_recall']:.3f}"),
        ("captions: recall of kinds of shapes", lambda cell: f"{cell['shape_recall']:.3f}"),
        ("captions: CHAIR_i", lambda cell: f"{cell['chair_i']:.3f}"),
        ("captions: CHAIR_s", lambda cell: f"{cell['chair_s']:.3f}"),
        ("of the hallucinated shapes, usual partner of one that is there", lambda cell: f"{cell['partner']:.2f}"),
        *((f"POPE {split}: accuracy (share of yes)", _pope(split)) for split in SPLITS),
    ]
    lines = ["| what | " + " | ".join(cell["set"] for cell in cells) + " |", "| --- |" + " ---: |" * len(cells)]
    lines += [f"| {name} | " + " | ".join(show(cell) for cell in cells) + " |" for name, show in rows]
    return "\n".join(lines)


def _pope(split: str):
    return lambda cell: f"{cell[split]['accuracy']:.3f} ({cell[split]['yes_rate']:.2f})"


def measure(model, processor, count: int, split: str = "dev") -> list[dict[str, Any]]:
    """One cell per set of scenes: its name, split and number of scenes, and what `score.evaluate` returns."""
    return [
        {
            "set": which,
            "split": split,
            "scenes": count,
            **evaluate(model, processor, scenes(which, count, split=split)),
        }
        for which in SETS
    ]


def write_card(folder: Path, count: int = 500) -> str:
    """Measure the model in `folder` and write its README.md and card.json; returns the table."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    cells = measure(model, AutoProcessor.from_pretrained(folder), count)
    settings = json.loads((folder / "training_config.json").read_text())
    text, vision, shown = model.config.text_config, model.config.vision_config, table(cells)
    card = _CARD.format(
        parameters=settings["parameters"],
        vision_layers=vision.num_hidden_layers,
        vision_hidden=vision.hidden_size,
        image_tokens=model.config.image_seq_length,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.head_dim,
        pairs=", ".join(" and ".join(pair) for pair in PAIRS),
        late_question_loss=settings["recipe"]["late_question_loss"],
        late_share=1 - settings["recipe"]["late"],
        fewest=min(COUNTS),
        most=max(COUNTS),
        words=len(WORDS),
        one_faint=ONE_FAINT,
        faint=FAINT,
        count=count,
        table=shown,
        **{key: settings[key] for key in ("command", "commit", "seed", "step", "tokens", "minutes", "threads")},
        **settings["versions"],
    )
    (folder / "README.md").write_text(card)
    (folder / "card.json").write_text("[\n" + ",\n".join(map(json.dumps, cells)) + "\n]\n")
    return shown
