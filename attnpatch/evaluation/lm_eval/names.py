"""lm-eval's names: what exists, and which single tasks stand behind a group or a tag."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from attnpatch.evaluation.errors import UsageError
from attnpatch.evaluation.lm_eval.extra import INSTALL, has_lm_eval
from attnpatch.patching.errors import did_you_mean

PREFIX = "lm_eval:"
_TYPO = 0.85  # this close to one of our names, a name is taken for a typo: building lm-eval's index takes seconds


@dataclass(frozen=True)
class Group:
    """A group with an aggregate of its own.

    members: the names of all single tasks below it. metrics: `(metric, filters, by_size)` as its file says; filters
    None means every filter, by_size weights tasks by their number of documents.
    """

    name: str
    members: tuple[str, ...]
    metrics: tuple[tuple[str, tuple[str, ...] | None, bool], ...]


@dataclass
class Expansion:
    """Single tasks in the order of the files, and the groups they belong to. `whole`: groups to be loaded as one."""

    tasks: list[str] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)


def bare(name: str) -> str:
    """The name as lm-eval knows it."""
    return name.removeprefix(PREFIX)


@lru_cache(maxsize=8)
def manager(include_path: tuple[str, ...], defaults: bool):
    """lm-eval's TaskManager over our own folders, and with `defaults` over its 14,000 names (several seconds)."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(include_path) or None, include_defaults=defaults)


def manager_for(names: Iterable[str], include_path: tuple[str, ...]):
    """The smallest manager that knows all `names` and what they refer to."""
    if include_path:
        own = manager(include_path, False)
        try:
            for name in names:
                expand(own, name)
            return own
        except KeyError:
            pass
    return manager(include_path, True)


def check(names: Iterable[str], ours: Iterable[str], include_path: tuple[str, ...] = ()) -> None:
    """Raise UsageError for a name that neither we nor lm-eval have."""
    ours = list(ours)
    for folder in include_path:
        if not Path(folder).is_dir():
            raise UsageError(f"include_path {folder!r} is not a folder. Give a folder with lm-eval task files.")
    unknown = [name for name in names if name not in ours]
    for name in unknown:
        typo = not name.startswith(PREFIX) and difflib.get_close_matches(name, ours, n=1, cutoff=_TYPO)
        if not has_lm_eval() or (typo and not _in_own_folders(name, include_path)):
            more = f"and lm-eval's, as {PREFIX}NAME" if has_lm_eval() else f"and, after {INSTALL}, lm-eval's"
            raise UsageError(
                f"unknown task {name!r}.{did_you_mean(name, ours)} Allowed: {', '.join(sorted(ours))}; {more}."
            )
    if not unknown:
        return
    index = manager_for(map(bare, unknown), include_path).task_index
    for name in unknown:
        if bare(name) not in index:
            allowed = index if name.startswith(PREFIX) else [*ours, *index]
            raise UsageError(
                f"unknown task {name!r}.{did_you_mean(bare(name), allowed)} `attnpatch-eval list tasks` and "
                "`attnpatch-lm-eval ls tasks` show all; folders with task files of your own go to --include-path."
            )


def _in_own_folders(name: str, include_path: tuple[str, ...]) -> bool:
    return bool(include_path) and name in manager(include_path, False).task_index


def expand(task_manager, name: str) -> Expansion:
    """All single tasks behind `name`.

    Groups that change their tasks' settings, or define tasks inside, cannot be taken apart by name and are `whole`.

    Raises:
        KeyError: a name, or one that its group refers to, is not in the index.
    """
    found = Expansion()
    _expand(task_manager.task_index, name, found)
    found.tasks = list(dict.fromkeys(found.tasks))
    return found


def _expand(index: dict[str, Any], name: str, found: Expansion) -> list[str]:
    entry = index[name]
    kind = entry.kind.name
    if kind == "TAG":
        return [task for child in sorted(entry.tags) for task in _expand(index, child, found)]
    if kind != "GROUP":
        found.tasks.append(name)
        return [name]
    children = entry.cfg.get("task")
    children = [children] if isinstance(children, str) else children or []
    structure = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}
    if set(entry.cfg) - structure or not all(isinstance(child, str) for child in children):
        found.whole.append(name)
        return []
    members = [task for child in children for task in _expand(index, child, found)]
    metrics = _aggregates(entry.cfg.get("aggregate_metric_list"))
    if metrics:
        found.groups.append(Group(name, tuple(members), metrics))
    return members


def _aggregates(given: Any) -> tuple[tuple[str, tuple[str, ...] | None, bool], ...]:
    rules = [given] if isinstance(given, dict) else given or []
    found = []
    for rule in rules:
        filters = rule.get("filter_list")
        filters = (filters,) if isinstance(filters, str) else tuple(filters) if filters else None
        if rule.get("aggregation", "mean") == "mean":
            found.append((str(rule["metric"]), filters, bool(rule.get("weight_by_size", True))))
    return tuple(found)
