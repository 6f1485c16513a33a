"""One lm-eval task, loaded or skipped with a reason and the fix."""

from __future__ import annotations

import contextlib
import io
import tempfile
from typing import Any

from attnpatch.evaluation.errors import SkipCell, one_line
from attnpatch.evaluation.lm_eval.extra import quiet, require_consent
from attnpatch.evaluation.lm_eval.seeds import seeded

BABILONG = (1, 2, 4, 8, 16, 32, 64, 128)  # thousand tokens
_WORDY = ("ruler_vt", "ruler_cwe")  # their loops do not end when words are many tokens long
_TOKENS_PER_WORD = 4
_RULER = {  # how lm-eval's tasks differ from NVIDIA's, and from our ruler_* tasks; scores are 0 to 1 there
    "niah": "sizes in steps of 25 or 500 words, essays not repeated",
    "ruler_vt": "other wording, one fixed example",
    "ruler_cwe": "without its example in the prompt",
    "ruler_fwe": "up to 50 tokens over the length",
    "ruler_qa": "the share of references found, where NVIDIA counts any of them as right",
}


def sized(index: dict[str, Any], name: str) -> bool:
    """True if the task makes or picks its documents for a length: RULER (its metrics are lengths) and BABILong."""
    metrics = (index[name].cfg or {}).get("metric_list") or []
    return name.startswith("babilong_") or any(str(metric.get("metric")).isdigit() for metric in metrics)


def difference(name: str) -> str:
    """For descriptions of lm-eval's RULER tasks: what is not as in NVIDIA's; empty for other tasks."""
    found = [text for start, text in _RULER.items() if name.startswith(start)]
    return f"; not as in NVIDIA's RULER: {found[0]}" if found else ""


def load(task_manager, name: str, source, length: int | None, metadata: dict[str, Any], data_seed: int):
    """lm-eval's Task object; `length` only for `sized` tasks.

    Raises:
        SkipCell: no data, a missing extra, no such length, or a file that cannot be read.
    """
    entry = task_manager.task_index[name]
    if (entry.cfg or {}).get("unsafe_code"):
        require_consent(name)
    own = entry.cfg.get("metadata") if isinstance((entry.cfg or {}).get("metadata"), dict) else {}
    extra = dict(metadata) if length is None else {**_for_length(name, source, length), **metadata}
    # A group written in place is the public way to give one task its metadata without building the index again.
    wanted = {"group": "attnpatch", "task": [{"task": name, "metadata": {**own, **extra}}]} if extra else name
    with seeded(data_seed), quiet():
        (task,) = _attempt(task_manager, wanted, name, (entry.cfg or {}).get("dataset_path")).values()
    return task


def load_whole(task_manager, name: str, data_seed: int) -> dict[str, Any] | SkipCell:
    """The tasks of a group that changes their settings, by name, or why there are none."""
    try:
        with seeded(data_seed), quiet():
            return _attempt(task_manager, name, name, None)
    except SkipCell as reason:
        return reason


def _attempt(task_manager, wanted, name: str, dataset: str | None) -> dict[str, Any]:
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some tasks print; our tables alone go to stdout
            return task_manager.load(wanted)["tasks"]
    except ImportError as error:
        raise SkipCell(
            f"extra missing: lm-eval task {name!r} needs {one_line(error, 200)}",
            'install what it names; lm-eval\'s own extras are pip install "lm-eval[longbench]" and so on',
        ) from error
    except Exception as error:  # a task file can raise anything; the other tasks still run
        raise SkipCell(
            f"no data: lm-eval task {name!r} cannot be loaded: {one_line(error, 160)}", _fix(dataset)
        ) from error


def _fix(dataset: str | None) -> str:
    if not dataset or dataset in ("json", "csv", "parquet", "text"):
        return "look at the task's file, and at the data files it names"
    return (
        f"where there is a network, run `hf download --repo-type dataset {dataset}` (and unset HF_HUB_OFFLINE and "
        "HF_DATASETS_OFFLINE), or point a task file of your own at a local copy and give its folder as --include-path"
    )


def _for_length(name: str, source, length: int) -> dict[str, Any]:
    if name.startswith("babilong_"):
        if length % 1024 or length // 1024 not in BABILONG:
            sizes = " ".join(f"{size}k" for size in BABILONG)
            raise SkipCell(f"no data: babilong has no documents of {length} tokens", f"take --lengths among {sizes}")
        return {"max_seq_lengths": f"{length // 1024}k"}
    if source.tokenizer is None:
        raise SkipCell(f"lm-eval's {name!r} makes its documents with the model's tokenizer", "give a tokenizer")
    words = source.tokenizer.encode(" assigned", add_special_tokens=False)
    if name in _WORDY and len(words) > _TOKENS_PER_WORD:
        raise SkipCell(
            f"lm-eval's {name!r} does not end with a tokenizer that makes {len(words)} tokens of a word",
            "take our own RULER task of that name, or another tokenizer",
        )
    return {"max_seq_lengths": [length], "tokenizer": _tokenizer_path(source)}


def _tokenizer_path(source) -> str:
    """Where RULER's code can load the tokenizer from; one in memory is saved to a folder that dies with `source`."""
    path = getattr(source, "path", None)
    if path is not None:
        return str(path)
    if not hasattr(source, "lm_eval_tokenizer"):
        source.lm_eval_tokenizer = tempfile.TemporaryDirectory(prefix="attnpatch-tokenizer-")
        source.tokenizer.save_pretrained(source.lm_eval_tokenizer.name)
    return source.lm_eval_tokenizer.name
