"""From a suite to cells: configs resolved, budgets matched, documents built, keys computed. Loads no weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from attnpatch.evaluation import tasks
from attnpatch.evaluation.budget import match_budget, mean_keys
from attnpatch.evaluation.cells import cell_seed, digest
from attnpatch.evaluation.environment import versions
from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.methods import MethodSpec
from attnpatch.evaluation.sizes import resolve_size
from attnpatch.evaluation.suites import Suite, TaskChoice

FORMAT = 1  # of cells on disk


@dataclass(frozen=True)
class PlannedCell:
    """One cell to be run, or the reason why it cannot.

    fields: everything that matters; `key` is their hash. config: the method's full options. documents: shared by all
    cells of a task and length.
    """

    method: MethodSpec
    config: dict[str, Any] | None
    target: int | None
    task_name: str
    task: tasks.Task | None
    length: int
    seed: int | None
    documents: list[tasks.Document]
    fields: dict[str, Any]
    skip: SkipCell | None = None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", digest(self.fields))

    @property
    def label(self) -> str:
        """For progress lines: method, budget, task, length, seed."""
        budget = "" if self.target is None else f" @{self.target}"
        seed = "" if self.seed is None else f" seed {self.seed}"
        return f"{self.method.label}{budget} · {self.task_name} {self.length}{seed}"


class Planner:
    """Builds the cells of a suite for one model."""

    def __init__(self, suite: Suite, source, options: tasks.TaskOptions | None = None) -> None:
        self.suite, self.source = suite, source
        options = replace(
            options or tasks.TaskOptions(), depths=tuple(suite.depths), chat_template=suite.chat_template
        )
        self.tasks = tasks.available(source.tokenizer, options)
        text_config = source.config.get_text_config(decoder=True)
        self.longest = getattr(text_config, "max_position_embeddings", None)
        heads = getattr(text_config, "num_attention_heads", None) or 1
        self.kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
        self._documents: dict[tuple[str, int], tuple[list[tasks.Document], str] | SkipCell] = {}
        self._configs: dict[tuple[str, int, int | None], dict[str, Any] | SkipCell] = {}

    def cells(self) -> list[PlannedCell]:
        """All cells, those of stock first, then method by method and budget by budget."""
        planned = []
        for method in self.suite.method_specs():
            for budget in self.suite.budgets if _uses_budget(method) else [None]:
                for length in self.suite.lengths:
                    for choice in self.suite.tasks:
                        planned += self._seeds(method, budget, length, choice)
        return planned

    def _seeds(self, method: MethodSpec, budget, length: int, choice: TaskChoice) -> list[PlannedCell]:
        seeds = self.suite.seeds if method.stochastic else [None]
        target = None if budget is None else resolve_size(budget, length=length)
        return [self._cell(method, target, length, choice, seed) for seed in seeds]

    def _cell(self, method: MethodSpec, target, length: int, choice: TaskChoice, seed: int | None) -> PlannedCell:
        task, documents, documents_hash, config, skip = None, [], None, None, None
        drawn = None if seed is None else cell_seed(seed, method.name, choice.name, length)
        limit = choice.limit or self.suite.limit
        try:
            task = tasks.find(self.tasks, choice.name)
            documents, documents_hash = self._documents_of(task, length, limit)
            config = dict(self._config_of(method, target, length))
            if drawn is not None:
                config["seed"] = drawn
        except SkipCell as reason:
            skip = reason
        fields = {
            "format": FORMAT,
            "model": self.source.identity.to_dict(),
            "method": {"name": method.name, "config": config, "given": method.options if config is None else None},
            "budget": target,
            "task": {
                "name": choice.name,
                "source": task.source if task else None,
                "version": task.version if task else None,
                "mode": task.mode if task else None,
                "documents": documents_hash,
            },
            "length": length,
            "seed": seed,
            "data_seed": self.suite.data_seed,
            "limit": limit,
            "batch_size": self._batch_size(task),
            "versions": versions(),
        }
        return PlannedCell(method, config, target, choice.name, task, length, seed, documents, fields, skip)

    def _batch_size(self, task: tasks.Task | None) -> int:
        generates = task is not None and task.mode == "generate"
        return self.suite.generation_batch_size if generates else self.suite.batch_size

    def _documents_of(self, task: tasks.Task, length: int, limit: int) -> tuple[list[tasks.Document], str]:
        if self.longest is not None and length > self.longest:
            raise SkipCell(
                f"{length} tokens are more than the model's {self.longest} positions",
                f"take --lengths up to {self.longest}",
            )
        name = task.name.removesuffix(tasks.DECODE)  # both modes ask the same documents
        key = (name, length, limit)
        if key not in self._documents:
            try:
                built = task.documents(length, limit, self.suite.data_seed)
                self._documents[key] = (built, tasks.documents_hash(built))
            except SkipCell as reason:
                self._documents[key] = reason
        found = self._documents[key]
        if isinstance(found, SkipCell):
            raise found
        return found

    def _config_of(self, method: MethodSpec, target: int | None, length: int) -> dict[str, Any]:
        key = (method.label, length, target)
        if key not in self._configs:
            try:
                self._configs[key] = self._match(method, target, length)
            except SkipCell as reason:
                self._configs[key] = reason
        found = self._configs[key]
        if isinstance(found, SkipCell):
            raise found
        return found

    def _match(self, method: MethodSpec, target: int | None, length: int) -> dict[str, Any]:
        if method.match is None:
            return method.config(length=length, budget=target)

        def measure(value: int) -> float:
            config = method.config(length=length, budget=target, **{method.match: value})
            return mean_keys(method.name, config, length, kv_heads=self.kv_heads)

        value = match_budget(measure, target, length)
        return method.config(length=length, budget=target, **{method.match: value})


def _uses_budget(method: MethodSpec) -> bool:
    """True if a budget changes the method: an option is matched to it, or is a share of it."""
    return method.match is not None or any(str(value).startswith("budget") for value in method.options.values())
