"""What the options of `attnpatch-eval run` ask for. Other commands take the same options, so they are read here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attnpatch.cli import eval_vision
from attnpatch.cli.lists import parse_json, parts

if TYPE_CHECKING:
    from attnpatch.evaluation.loading import ModelRequest
    from attnpatch.evaluation.suites import Suite
    from attnpatch.evaluation.tasks.options import TaskOptions

_SUITE = (
    "model", "methods", "budgets", "lengths", "limit", "seeds", "batch_size", "data_seed", "speed_rounds", "depths",
    "generation_batch_size",
)  # fmt: skip
_LM_EVAL = ("include_path", "num_fewshot", "system_instruction", "gen_kwargs", "loglikelihood")
_FILES = ("text_file", "haystack", "squad", "hotpot", "word_list", *eval_vision.FILES)
_MODEL = ("revision", "dtype", "device_map", "attn_implementation", "trust_remote_code")


@dataclass(frozen=True)
class Requested:
    """suite: what is measured; model: on what; files: the texts that tasks read."""

    suite: Suite
    model: ModelRequest
    files: TaskOptions


def requested(options: Mapping[str, Any]) -> Requested:
    """Read `run`'s options, by the names of its parameters; the suite's own values stand where none is given.

    Raises:
        UsageError: an unknown suite, key, task or method, or a value out of range.
    """
    from attnpatch.evaluation.loading import ModelRequest
    from attnpatch.evaluation.suites import checked, load_suite
    from attnpatch.evaluation.tasks.options import TaskOptions

    tasks = parts(options["tasks"])
    values = load_suite(options["suite"] or "default")
    if options["methods"] and options["suite"] is None and not options["budgets"]:
        values.pop("budgets", None)
    given = {name: options[name] for name in _SUITE}
    given |= {"tasks": tasks, "chat_template": options["chat_template"] or None}
    values |= _present(given)
    foreign = _present({name: options[name] for name in _LM_EVAL})
    foreign |= _present({"metadata": parse_json("--metadata", options["metadata"])})
    if foreign:
        values["lm_eval"] = {**(values.get("lm_eval") or {}), **foreign}
    shown = _present({name: options[name] for name in eval_vision.SETTINGS})
    if shown:
        values["vision"] = {**(values.get("vision") or {}), **shown}
    if options["limit"] is not None and not tasks:  # a limit on the command line is meant for every task
        values["tasks"] = [one if isinstance(one, str) else one["name"] for one in values.get("tasks", [])]
    suite = checked(values)
    model = ModelRequest(suite.model, **{name: options[name] for name in _MODEL})
    return Requested(suite, model, TaskOptions(**{name: options[name] for name in _FILES}))


def _present(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value not in (None, [])}


def like(run: Callable) -> Callable[[Callable], Callable]:
    """Let a command take every option of `run` as well, so that the same command line works for both.

    The command's own parameters come first, and the options of `run` arrive in its `**options`.
    """

    def with_options(command: Callable) -> Callable:
        own = inspect.signature(command, eval_str=True)
        taken = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
        names = {one.name for one in taken}
        borrowed = [one for one in inspect.signature(run, eval_str=True).parameters.values() if one.name not in names]
        command.__signature__ = own.replace(parameters=[*taken, *borrowed])
        command.__annotations__ = {one.name: one.annotation for one in (*taken, *borrowed)}
        return command

    return with_options
