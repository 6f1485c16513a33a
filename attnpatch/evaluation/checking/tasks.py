"""The tasks of a run: is their data here. Ours build one document, lm-eval's are loaded from the caches."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from attnpatch.evaluation import tasks
from attnpatch.evaluation.checking.finding import MISSING, OK, UNKNOWN, Finding
from attnpatch.evaluation.checking.model import Model
from attnpatch.evaluation.errors import SkipCell, UsageError
from attnpatch.evaluation.processors import picture_side
from attnpatch.evaluation.ruler.material import Material
from attnpatch.evaluation.ruler.specs import RULER_TASKS
from attnpatch.evaluation.suites import Suite
from attnpatch.evaluation.tasks.options import TaskOptions

PART = "task"


def check_tasks(model: Model, suite: Suite, files: TaskOptions) -> list[Finding]:
    """One finding per task, or per group of lm-eval's."""
    names = list(dict.fromkeys(choice.name for choice in suite.tasks))
    foreign = [name for name in names if name not in tasks.ours()]
    loaded = _lm_eval(foreign, model, suite) if foreign else {}
    if model.source is None:
        material = Material(files)
        return [loaded.get(name) or _without_tokenizer(name, material) for name in names]
    try:
        known = tasks.available(
            model.source.tokenizer, replace(files, vision=suite.vision), *picture_side(model.source)
        )
    except UsageError as error:
        return [loaded.get(name) or Finding(PART, name, MISSING, str(error)) for name in names]
    return [loaded.get(name) or _build(name, known, model, suite) for name in names]


def _without_tokenizer(name: str, material: Material) -> Finding:
    spec = RULER_TASKS.get(name)
    try:
        for need in spec.needs if spec else ():
            getattr(material, need)
    except SkipCell as missing:
        return Finding(PART, name, MISSING, missing.reason, missing.fix)
    except UsageError as error:
        return Finding(PART, name, MISSING, str(error))
    return Finding(PART, name, UNKNOWN, "needs no more data; its documents need the model's tokenizer")


def _build(name: str, known: dict[str, tasks.Task], model: Model, suite: Suite) -> Finding:
    """Shorter lengths first, up to one that works: that is where a length can be too short, and it is cheap."""
    if tasks.own_length(name):
        return _build_all(name, known, suite)
    failed: dict[int, SkipCell | UsageError] = {}
    for length in sorted(set(suite.lengths)):
        if length > (model.longest or length):
            continue  # said of the model
        try:
            tasks.find(known, name).documents(length, 1, suite.data_seed)
        except (SkipCell, UsageError) as reason:
            failed[length] = reason
        else:
            break
    else:
        if not failed:
            return Finding(PART, name, MISSING, "no length fits into the model", "take shorter --lengths")
    if not failed:
        return Finding(PART, name, OK, f"documents of {length} tokens can be made")
    reason = next(iter(failed.values()))
    return Finding(
        PART, name, MISSING, f"at {', '.join(map(str, failed))} tokens: {reason}", getattr(reason, "fix", "")
    )


def _build_all(name: str, known: dict[str, tasks.Task], suite: Suite) -> Finding:
    """All documents: each has a picture that may be missing."""
    limit = next(choice.limit for choice in suite.tasks if choice.name == name) or suite.limit
    try:
        found = tasks.find(known, name).documents(None, limit, suite.data_seed)
    except (SkipCell, UsageError) as reason:
        return Finding(PART, name, MISSING, str(reason), getattr(reason, "fix", ""))
    left_out = found.details.get("left_out", {}).get("count", 0)
    told = f"; {left_out} entries are left out, the first: {found.details['left_out']['first'][0]}" if left_out else ""
    return Finding(PART, name, OK, f"{len(found)} documents with their pictures are here{told}")


def _lm_eval(names: list[str], model: Model, suite: Suite) -> dict[str, Finding]:
    from attnpatch.evaluation.lm_eval.tasks import LmEvalTasks

    source = model.source or SimpleNamespace(tokenizer=None)
    found = LmEvalTasks(
        names, tasks.ours(), suite.lm_eval, source, chat_template=suite.chat_template, longest=model.longest,
        data_seed=suite.data_seed,
    )  # fmt: skip
    return {name: _loads(name, found, suite) for name in names}


def _loads(name: str, found, suite: Suite) -> Finding:
    asked = found.asked(name, suite.lengths)
    reasons = [reason for single in asked if (reason := found.missing(*single)) is not None]
    if not reasons:
        return Finding(PART, name, OK, f"lm-eval: {_count(asked)} loaded")
    first, fixes = reasons[0], dict.fromkeys(reason.fix for reason in reasons)
    part = "" if len(asked) == 1 else f"{len(reasons)} of {_count(asked)}: "
    return Finding(PART, name, MISSING, f"{part}{first.reason}", "; ".join(fixes))


def _count(asked: list) -> str:
    return "1 task" if len(asked) == 1 else f"{len(asked)} tasks"
