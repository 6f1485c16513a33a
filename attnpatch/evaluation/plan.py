"""From a suite to cells: configs resolved, budgets matched, documents built, keys computed. Loads no weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from attnpatch.evaluation import tasks
from attnpatch.evaluation.batch_size import AUTO, BatchSize
from attnpatch.evaluation.budget import match_budget, mean_keys
from attnpatch.evaluation.cells import cell_seed, digest
from attnpatch.evaluation.contents import contents
from attnpatch.evaluation.environment import versions
from attnpatch.evaluation.errors import SkipCell, UsageError, one_line
from attnpatch.evaluation.methods import MethodSpec
from attnpatch.evaluation.once import once
from attnpatch.evaluation.processors import picture_side
from attnpatch.evaluation.sizes import resolve_size
from attnpatch.evaluation.suites import Suite, TaskChoice
from attnpatch.patching.method import method_class

FORMAT = 1  # of cells on disk


@dataclass(frozen=True)
class PlannedCell:
    """One cell to be run, or the reason why it cannot.

    fields: everything that matters; `key` is their hash. config: the method's full options. length: None where
    documents are as long as they are. documents: shared by all cells of a task and length.
    """

    method: MethodSpec
    config: dict[str, Any] | None
    target: int | None
    task_name: str
    task: tasks.Task | None
    length: int | None
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
        length = "" if self.length is None else f" {self.length}"
        return f"{self.method.label}{budget} · {self.task_name}{length}{seed}"


class Planner:
    """Builds the cells of a suite for one model.

    Attributes:
        lm_eval: lm-eval's tasks among the suite's; None without one, and then nothing of lm-eval is imported.
    """

    def __init__(self, suite: Suite, source, options: tasks.TaskOptions | None = None) -> None:
        self.suite, self.source = suite, source
        options = replace(
            options or tasks.TaskOptions(), depths=tuple(suite.depths), chat_template=suite.chat_template,
            vision=suite.vision,
        )  # fmt: skip
        self.tasks = tasks.available(source.tokenizer, options, *picture_side(source))
        text_config = source.config.get_text_config(decoder=True)
        self.longest = getattr(text_config, "max_position_embeddings", None)
        heads = getattr(text_config, "num_attention_heads", None) or 1
        self.kv_heads = getattr(text_config, "num_key_value_heads", None) or heads
        self.lm_eval = self._lm_eval()
        self._documents: dict[tuple[str, int], tuple[list[tasks.Document], str] | SkipCell] = {}
        self._configs: dict[tuple, dict[str, Any] | SkipCell] = {}
        self._contents: dict[str, dict[str, str] | SkipCell] = {}
        self._sizes: dict[tuple, int] = {}

    def cells(self) -> list[PlannedCell]:
        """All cells, those of stock first, then method by method and budget by budget."""
        planned, asked = [], self._asked()
        for method in self.suite.method_specs():
            for budget in self.suite.budgets if _uses_budget(method) else [None]:
                for choice, length in asked:
                    planned += self._seeds(method, budget, length, choice)
        return planned

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Groups of tasks that get a row of their own, see `evaluation.groups`."""
        return self.lm_eval.groups if self.lm_eval is not None else []

    def _lm_eval(self):
        wanted = [choice.name for choice in self.suite.tasks if choice.name not in tasks.ours()]
        if not wanted:
            return None
        from attnpatch.evaluation.lm_eval.tasks import LmEvalTasks

        suite = self.suite
        return LmEvalTasks(
            wanted, tasks.ours(), suite.lm_eval, self.source, chat_template=suite.chat_template, longest=self.longest,
            data_seed=suite.data_seed,
        )  # fmt: skip

    def _asked(self) -> list[tuple[TaskChoice, int | None]]:
        """Every single task with every length it is asked at."""
        ours = [choice for choice in self.suite.tasks if choice.name in tasks.ours()]
        sized = [choice for choice in ours if not tasks.own_length(choice.name)]
        asked = [(choice, length) for length in self.suite.lengths for choice in sized]
        asked += [(choice, None) for choice in ours if tasks.own_length(choice.name)]
        for choice in self.suite.tasks:
            if choice not in ours:
                found = self.lm_eval.asked(choice.name, self.suite.lengths)
                asked += [(TaskChoice(name=name, limit=choice.limit), length) for name, length in found]
        return list(dict.fromkeys(asked))

    def _seeds(self, method: MethodSpec, budget, length: int | None, choice: TaskChoice) -> list[PlannedCell]:
        seeds = self.suite.seeds if method.stochastic else [None]
        target = None if budget is None else resolve_size(budget, length=self._size(choice, length))
        return [self._cell(method, target, length, choice, seed) for seed in seeds]

    def _size(self, choice: TaskChoice, length: int | None) -> int:
        """What `length/8` is a share of: the length, or the mean prompt where documents are as long as they are."""
        if length is not None:
            return length
        limit = choice.limit or self.suite.limit
        try:
            if choice.name not in tasks.ours():
                return self.lm_eval.get(choice.name, None, limit).size
            return once(self._sizes, (choice.name, limit), lambda: self._prompt_size(choice.name, limit))
        except SkipCell:
            return 1  # nothing is run then

    def _prompt_size(self, name: str, limit: int) -> int:
        """Tokens of the first document, its picture among them."""
        task = tasks.find(self.tasks, name)
        first = self._documents_of(task, None, limit)[0][0]
        try:
            return task.inputs(first)["input_ids"].shape[1]
        except Exception as error:  # pictures and processors of others fail in a dozen ways
            raise SkipCell(
                f"no prompt can be made of document {first.id!r}: {one_line(error)}", "mend or remove its picture"
            ) from error

    def _cell(
        self, method: MethodSpec, target, length: int | None, choice: TaskChoice, seed: int | None
    ) -> PlannedCell:
        task, loaded, documents, documents_hash, config, skip, named = None, None, [], None, None, None, {}
        drawn = None if seed is None else cell_seed(seed, method.name, choice.name, length)
        limit = choice.limit or self.suite.limit
        foreign = choice.name not in tasks.ours()
        try:
            if foreign:
                self._require_room(length)
                loaded = self.lm_eval.get(choice.name, length, limit)
                task, documents, documents_hash = loaded.task, loaded.requests.documents, loaded.requests.hash
            else:
                task = tasks.find(self.tasks, choice.name)
                documents, documents_hash = self._documents_of(task, length, limit)
            if method.companion is not None and (foreign or not task.mode.startswith("generate")):
                raise SkipCell(
                    f"{method.companion.name!r} acts while attnpatch writes text, and this task does not let it",
                    "ask a task that generates: pope, chair, scenes_caption, ruler_*, ...",
                )
            config = dict(self._config_of(method, target, self._size(choice, length), choice.name))
            named = once(self._contents, digest([method.name, config]), lambda: _contents_of(method, config))
            if drawn is not None:
                config["seed"] = drawn
        except SkipCell as reason:
            skip = reason
        fields = {
            "format": FORMAT,
            "model": self.source.identity.to_dict(),
            "method": {
                "name": method.name,
                "config": config,
                "given": method.options if config is None else None,
                **({"contents": named} if named else {}),
                **({"companion": method.companion.to_dict()} if method.companion else {}),
            },
            "budget": target,
            "task": {
                "name": choice.name,
                "source": task.source if task else None,
                "version": task.version if task else None,
                "mode": task.mode if task else None,
                "documents": documents_hash,
                **({"details": told} if (told := getattr(documents, "details", None)) else {}),
            },
            "length": length,
            "seed": seed,
            "data_seed": self.suite.data_seed,
            "limit": limit,
            "batch_size": self._batch_size(task, method, config),
            "versions": versions(),
        }
        if foreign:
            method_type = method_class(method.applied)
            fields["batch_size"] = self.lm_eval.batch_size(method_type, fields["batch_size"])
            fields["lm_eval"] = self.lm_eval.fields(method_type, loaded)
        return PlannedCell(method, config, target, choice.name, task, length, seed, documents, fields, skip)

    def _batch_size(self, task: tasks.Task | None, method: MethodSpec, config: dict[str, Any] | None) -> BatchSize:
        generates = task is not None and task.mode.startswith("generate")
        asked = self.suite.generation_batch_size if generates else self.suite.batch_size
        if method.companion is not None and method.companion.one_row:
            return 1
        # What documents of a batch share would depend on the memory of the machine.
        draws = config is not None and method_class(method.applied).draws_at_random(config)
        return 1 if asked == AUTO and draws else asked

    def _require_room(self, length: int | None) -> None:
        if None not in (self.longest, length) and length > self.longest:
            raise SkipCell(
                f"{length} tokens are more than the model's {self.longest} positions",
                f"take --lengths up to {self.longest}",
            )

    def _documents_of(self, task: tasks.Task, length: int | None, limit: int) -> tuple[list[tasks.Document], str]:
        self._require_room(length)
        name = task.name.removesuffix(tasks.DECODE)  # both modes ask the same documents

        def build() -> tuple[list[tasks.Document], str]:
            try:
                built = task.documents(length, limit, self.suite.data_seed)
            except (SkipCell, UsageError):
                raise
            except Exception as error:  # a task's own code; the other tasks still run
                raise SkipCell(
                    f"task {name!r} cannot build its documents: {one_line(error)}", "report this as a bug of the task"
                ) from error
            return built, tasks.documents_hash(built)

        return once(self._documents, (name, length, limit), build)

    def _config_of(self, method: MethodSpec, target: int | None, length: int, task: str) -> dict[str, Any]:
        own = task if task in method.per_task else None
        key = (method.label, length, target, own)
        return once(self._configs, key, lambda: self._match(method, {"length": length, "budget": target, "task": own}))

    def _match(self, method: MethodSpec, asked: dict[str, Any]) -> dict[str, Any]:
        if method.match is None:
            return method.config(**asked)

        def measure(value: int) -> float:
            config = method.config(**asked, **{method.match: value})
            return mean_keys(method.applied, config, asked["length"], kv_heads=self.kv_heads)

        value = match_budget(measure, asked["budget"], asked["length"])
        return method.config(**asked, **{method.match: value})


def _contents_of(method: MethodSpec, config: dict[str, Any]) -> dict[str, str]:
    """What the method reads, by content. Without it the other methods of a suite with a recipe can still run."""
    try:
        return contents(method.applied, config)
    except UsageError as error:
        if method.recipe is None:
            raise
        raise SkipCell(f"not trained: {error}", f"train it: attnpatch train {method.recipe}") from error


def _uses_budget(method: MethodSpec) -> bool:
    """True if a budget changes the method: an option is matched to it, or is a share of it."""
    return method.match is not None or any(str(value).startswith("budget") for value in method.options.values())
