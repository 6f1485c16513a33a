"""One evaluation from request to results; the command line and the Python API are the same engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attnpatch.evaluation.cells import CellStore
from attnpatch.evaluation.environment import command, machine, versions
from attnpatch.evaluation.loading import MemorySource, model_name
from attnpatch.evaluation.plan import PlannedCell, Planner
from attnpatch.evaluation.processes import ALONE, Processes
from attnpatch.evaluation.progress import Silent, reporter
from attnpatch.evaluation.results import Results
from attnpatch.evaluation.runner import Runner
from attnpatch.evaluation.sizes import Size
from attnpatch.evaluation.speed import process_peak
from attnpatch.evaluation.suites import Suite, checked
from attnpatch.evaluation.tasks.options import TaskOptions


@dataclass
class Prepared:
    """A planned evaluation: what would run, and `run()`."""

    suite: Suite
    source: Any
    cells: list[PlannedCell]
    store: CellStore | None
    groups: list[dict[str, Any]] = field(default_factory=list)

    def run(self, *, resume: bool = True, progress: Silent | None = None, processes: Processes = ALONE) -> Results:
        """Run what is missing and gather everything, in every process of `processes`."""
        start = time.perf_counter()
        runner = Runner(
            self.cells, self.source, self.store, resume=resume, speed_rounds=self.suite.speed_rounds,
            processes=processes,
        )  # fmt: skip
        with progress or Silent() as shown:
            cells = runner.run(shown)
        run = {
            "command": command(),
            "suite": self.suite.model_dump(mode="json", exclude={"methods"})
            | {"methods": [method.to_dict() for method in self.suite.method_specs()]},
            "groups": self.groups,
            "model": self.source.identity.to_dict(),
            "versions": versions(),
            "machine": machine() | ({} if processes.alone else {"processes": processes.count}),
            "unpatched": runner.unpatched,
            "speed": runner.speed,
            "reused_cells": runner.reused,
            "seconds": round(time.perf_counter() - start, 1),
            "peak_rss_bytes": process_peak(),
        }
        return Results(cells, run)


def prepare(suite: Suite, source, output_path: str | Path | None, options: TaskOptions | None = None) -> Prepared:
    """Plan a suite for a model source; loads no weights. `options`: the files that tasks read.

    Raises:
        UsageError: an unknown name, a value out of range, or a file that cannot be read.
    """
    store = CellStore(output_path) if output_path is not None else None
    planner = Planner(suite, source, options)
    return Prepared(suite, source, planner.cells(), store, planner.groups)


def evaluate(
    model,
    tokenizer,
    *,
    methods: Sequence[Any] = ("stock",),
    tasks: Sequence[str] = ("needle",),
    lengths: Sequence[int | str] = (512,),
    seeds: Sequence[int] = (0,),
    budgets: Sequence[Size] = (),
    limit: int = 32,
    batch_size: int | str = 4,
    data_seed: int = 0,
    speed_rounds: int = 7,
    generation_batch_size: int | str = 1,
    depths: Sequence[float] = (),
    chat_template: bool = False,
    lm_eval: Mapping[str, Any] | None = None,
    text_file: str | Path | None = None,
    haystack: str | Path | None = None,
    squad: str | Path | None = None,
    hotpot: str | Path | None = None,
    word_list: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_root: str | Path | None = None,
    pope: str | Path | None = None,
    coco: str | Path | None = None,
    mme: str | Path | None = None,
    amber: str | Path | None = None,
    chair_synonyms: str | Path | None = None,
    chair_images: str | Path | None = None,
    vision: Mapping[str, Any] | None = None,
    output_path: str | Path | None = None,
    resume: bool = True,
    progress: bool = False,
) -> Results:
    """Measure what methods do to a model in memory.

    Args:
        model: a causal language model without patches; it is stock again on return and after an exception.
        tokenizer: its tokenizer, or its processor if it takes pictures. The sandbox's own gets the sandbox tasks, any
            other the same tasks as plain text.
        methods: names, `"sliding:window=256,sink=4"`, `("sliding", {"window": 256})`, or mappings with name, options,
            label, match, per_task. `stock` is added if absent and runs first.
        tasks: see `attnpatch-eval list tasks`; lm-eval's by their name, or as `lm_eval:NAME` where we have one too.
        lengths: tokens per document, exact; `"4k"` is 4096.
        seeds: for methods that draw at random; others run once.
        budgets: mean visible keys per prefill query, as tokens or `"length/8"`. Methods without a window of their own
            get the one whose measured budget comes closest; none: methods run as configured.
        limit: documents per task.
        batch_size: documents per forward; methods that draw one permutation per batch depend on it. `"auto"` takes as
            many as memory holds and halves them when it runs out; 1 for methods that draw at random.
        data_seed: seed of the documents.
        speed_rounds: times that each method is timed in alternation with the others; 0 leaves that out.
        generation_batch_size: prompts per `generate`; those of different length are padded on the left.
        depths: of the needle, in percent of the context, for tasks that place one; documents take them in turn.
        chat_template: put prompts of tasks that generate, and of lm-eval's, into the tokenizer's chat template.
        lm_eval: how lm-eval's tasks are asked, see `LmEvalSettings`: include_path, num_fewshot, gen_kwargs, ...
        text_file: replaces the stories of the perplexity tasks, and is RULER's haystack if no other is given.
        haystack, squad, hotpot: RULER's texts: a file, or a data set on the Hub.
        word_list: a file with one word a line, in place of wonderwords, for RULER.
        data_dir: a folder with pope/, coco/, mme/, amber/ and images/, in place of the next five.
        image_root: the pictures of POPE, CHAIR, MME and AMBER.
        pope, coco, mme, amber: folders with their annotations, see `attnpatch-eval check`; coco is CHAIR's.
        chair_synonyms: CHAIR's official table of objects, in place of ours.
        chair_images: a file with the pictures that CHAIR describes, one id or file name a line.
        vision: how tasks with pictures are asked, see `VisionSettings`: answer_tokens, caption_tokens, on_bad, ...
        output_path: folder for cells and results; cells found there are not computed again if `resume`.
        progress: show bars (or lines, off a terminal) on stderr.

    Returns:
        Results: `.cells`, `.rows`, `.to_markdown()`, `.to_pandas()`, `.plot(folder)`, `.save(folder)`.

    Raises:
        UsageError: an unknown name, or a value out of range. Whatever goes wrong later stands in the cells.
    """
    suite = checked(
        {
            "methods": list(methods),
            "tasks": list(tasks),
            "lengths": list(lengths),
            "seeds": list(seeds),
            "budgets": list(budgets),
            "limit": limit,
            "batch_size": batch_size,
            "data_seed": data_seed,
            "speed_rounds": speed_rounds,
            "generation_batch_size": generation_batch_size,
            "depths": list(depths),
            "chat_template": chat_template,
            "lm_eval": dict(lm_eval or {}),
            "vision": dict(vision or {}),
            "model": model_name(model),
        }
    )
    files = {
        "text_file": text_file, "haystack": haystack, "squad": squad, "hotpot": hotpot, "word_list": word_list,
        "data_dir": data_dir, "image_root": image_root, "pope": pope, "coco": coco, "mme": mme, "amber": amber,
        "chair_synonyms": chair_synonyms, "chair_images": chair_images,
    }  # fmt: skip
    options = TaskOptions(**{name: None if path is None else str(path) for name, path in files.items()})
    prepared = prepare(suite, MemorySource(model, tokenizer), output_path, options)
    results = prepared.run(resume=resume, progress=reporter(quiet=not progress))
    if output_path is not None:
        results.save(output_path)
    return results
