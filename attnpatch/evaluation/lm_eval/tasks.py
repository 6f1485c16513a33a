"""lm-eval's tasks as tasks of an evaluation: each loaded once, its requests shared by all methods."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.lm_eval import loading, names, requests
from attnpatch.evaluation.lm_eval.extra import require_lm_eval
from attnpatch.evaluation.lm_eval.scoring import score
from attnpatch.evaluation.lm_eval.settings import LmEvalSettings, scoring
from attnpatch.evaluation.once import once
from attnpatch.evaluation.tasks.base import Task
from attnpatch.patching.method import Method

SOURCE = "lm_eval"


@cache
def versions() -> dict[str, str]:
    """What enters the keys of lm-eval cells besides our own versions."""
    code = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return {"lm_eval": metadata.version("lm_eval"), "lm_eval_code": hashlib.sha256(code).hexdigest()[:16]}


@dataclass(frozen=True)
class Loaded:
    """A task ready to be asked. task: our view of it; requests: lm-eval's."""

    task: Task
    requests: requests.Requests

    @property
    def size(self) -> int:
        """Tokens of a typical prompt, for options that are a share of the length."""
        return max(1, round(self.requests.tokens["mean"]))


class LmEvalTasks:
    """The lm-eval tasks of one evaluation.

    wanted: names of tasks, groups or tags. ours: names that mean a task of our own, so that lm-eval's task of that
    name keeps its prefix. longest: the model's positions; None: as lm-eval finds them.

    Raises:
        ImportError: lm-eval is not installed.
    """

    def __init__(
        self, wanted: list[str], ours: set[str], settings: LmEvalSettings, source, *, chat_template: bool,
        longest: int | None, data_seed: int,
    ) -> None:  # fmt: skip
        require_lm_eval()
        self.ours, self.settings, self.source, self.chat_template = ours, settings, source, chat_template
        self.longest, self.data_seed = longest, data_seed
        # HFLM gives a tokenizer without padding a token for it; the caller's stays as it is.
        self.tokenizer = copy.deepcopy(source.tokenizer)
        self.manager = names.manager_for(map(names.bare, wanted), settings.include_path)
        self._whole: dict[str, Any] = {}
        self._loaded: dict[tuple, Loaded | SkipCell] = {}
        self._behind = {name: self._expand(name) for name in wanted}

    def asked(self, name: str, lengths: list[int]) -> list[tuple[str, int | None]]:
        """`(task, length)` for every single task behind `name`.

        `lengths` are for tasks that make documents of a length; others have None: documents as long as they are.
        """
        return [(self._shown(task), length) for task in self._behind[name].tasks for length in self._of(task, lengths)]

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The groups among them that have an aggregate, as `evaluation.groups` takes them."""
        found = {group.name: group for behind in self._behind.values() for group in behind.groups}
        return [
            {
                "name": self._shown(group.name),
                "members": list(map(self._shown, group.members)),
                "metrics": group.metrics,
            }
            for group in found.values()
        ]

    def get(self, name: str, length: int | None, limit: int) -> Loaded:
        """The loaded task; the same object for every method. Raises SkipCell."""
        return once(self._loaded, (name, length, limit), lambda: self._load(name, length, limit))

    def missing(self, name: str, length: int | None) -> SkipCell | None:
        """Why the task cannot be loaded; None if it can."""
        try:
            self._task(names.bare(name), length)
        except SkipCell as reason:
            return reason
        return None

    def fields(self, method: type[Method], loaded: Loaded | None) -> dict[str, Any]:
        """What matters to a cell besides its documents, for its key and for the results."""
        return {
            "loglikelihood": scoring([method], self.settings.loglikelihood).loglikelihood,
            "num_fewshot": loaded.requests.task.get_config("num_fewshot") if loaded else self.settings.num_fewshot,
            "chat_template": self.chat_template,
            "system_instruction": self.settings.system_instruction,
            "gen_kwargs": self.settings.gen_kwargs,
            "prompt_tokens": loaded.requests.tokens if loaded else None,
            **versions(),
        }

    def batch_size(self, method: type[Method], asked: int) -> int:
        """1 for methods whose answers depend on what shares a batch with them."""
        return scoring([method]).batch_size(asked)

    def _expand(self, name: str) -> names.Expansion:
        found = names.expand(self.manager, names.bare(name))
        for group in found.whole:
            self._whole[group] = loading.load_whole(self.manager, group, self.data_seed)
            reason = self._whole[group]
            found.tasks += [group] if isinstance(reason, SkipCell) else list(reason)  # its cell says why
        return found

    def _shown(self, name: str) -> str:
        return names.PREFIX + name if name in self.ours else name

    def _of(self, name: str, lengths: list[int]) -> list[int | None]:
        index = self.manager.task_index
        fixed = "max_seq_lengths" in self.settings.metadata or name not in index
        return [None] if fixed or not loading.sized(index, name) else list(lengths)

    def _load(self, name: str, length: int | None, limit: int) -> Loaded:
        task = self._task(names.bare(name), length)
        asked = requests.build(task, self.settings, self.tokenizer, self.chat_template, limit, self.data_seed)
        kind, mean = task.OUTPUT_TYPE, asked.tokens["mean"]
        ours = Task(
            name=name,
            source=SOURCE,
            version=str(task.VERSION),
            description=f"lm-eval {metadata.version('lm_eval')}, {kind}, {mean:g} tokens a prompt"
            + loading.difference(names.bare(name)),
            metric=SOURCE,
            chance=None,
            build=_not_built_here,
            mode=kind,
            scorer=partial(score, asked, self),
            whole=True,
        )
        return Loaded(ours, asked)

    def _task(self, name: str, length: int | None):
        for group, found in self._whole.items():
            if group == name and isinstance(found, SkipCell):
                raise found
            if not isinstance(found, SkipCell) and name in found:
                return found[name]
        return loading.load(self.manager, name, self.source, length, dict(self.settings.metadata), self.data_seed)


def _not_built_here(length: int, count: int, seed: int) -> list:
    raise NotImplementedError("documents of lm-eval tasks come from LmEvalTasks.get()")
