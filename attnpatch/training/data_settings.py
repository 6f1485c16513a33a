"""The `data` block of a recipe: sources, lengths, packs."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from attnpatch.sandbox import samples
from attnpatch.training.problems import Problems
from attnpatch.training.settings import Settings
from attnpatch.training.templates import parse

_PROMPT = re.compile(r"first_answer|fraction:(\d*\.?\d+)")
_KINDS = ("sandbox", "dataset", "files")
_TABLE_KEYS = {"config", "split", "revision", "data_files", "columns", "order", "limit", "shuffle"}


class SandboxTask(Settings):
    """One sandbox task of a source. Keys that are not its own are options of the task: `{facts: 4}`."""

    lengths: list[int] = Field([], description="tokens; the source's lengths if not given")
    options: dict[str, Any] = Field({}, description="options of the task")

    @model_validator(mode="before")
    @classmethod
    def _flat_options(cls, value: Any) -> Any:
        if value is None:
            return {}
        if not isinstance(value, dict):
            return value
        own = {key: value[key] for key in ("lengths", "options") if key in value}
        more = {key: one for key, one in value.items() if key not in own}
        return {**own, "options": {**(own.get("options") or {}), **more}} if more else own


class Columns(Settings):
    """How a row becomes a conversation. Each value but `messages` is a template over the columns of a row.

    `{title}` is a column; `{paragraphs[text]}` a key of a struct, or of every struct in a list. A list of texts is
    joined by blank lines in `context`; elsewhere its first element counts. `{{` is a brace.
    """

    messages: str | None = Field(None, description="column with the chat: a list of {role, content}")
    context: str | None = Field(None, description="template of the long text; it goes into the first user turn")
    question: str | None = Field(None, description="template of the question or instruction")
    answer: str | None = Field(None, description="template of the answer; not where messages end with one")
    system: str | None = Field(None, description="template of the system turn")

    @model_validator(mode="after")
    def _complete(self) -> Columns:
        if self.messages and self.question:
            raise ValueError("give messages or question, not both: the chat holds its questions")
        if not self.messages and not (self.context or self.question):
            raise ValueError("give messages, or question and/or context: there is nothing to ask")
        if not self.messages and not self.answer:
            raise ValueError("give answer, the template of what the model should say, such as '{answer}'")
        for template in filter(None, (self.context, self.question, self.answer, self.system)):
            parse(template)
        return self


class Source(Settings):
    """One source of samples: `sandbox`, `dataset` or `files`."""

    task: str = Field(min_length=1, description="name of the task; sources of one task share its target")
    omega: float | None = Field(None, ge=0, le=1, description="target share of sparse layers; needed by a router")
    weight: float = Field(
        1.0, gt=0, description="share among the sources of its task (balance), or among all sources (no balance)"
    )
    sandbox: dict[str, SandboxTask] | None = Field(None, description="sandbox tasks: a list, or name: {lengths, ...}")
    lengths: list[int] = Field([], description="tokens of the sandbox tasks")
    prompt: str = Field(
        "first_answer",
        description="where the prompt of a sandbox row ends: first_answer, or fraction:0.5 of its tokens",
    )
    dataset: str | None = Field(None, description="id on the Hub")
    config: str | None = Field(None, description="configuration (subset) of the dataset")
    split: str = Field("train", description="split of the dataset")
    revision: str | None = Field(None, description="branch, tag or commit of the dataset")
    data_files: str | list[str] | None = Field(None, description="files inside the dataset's repository")
    files: str | list[str] | None = Field(None, description="local JSONL, JSON or Parquet: path, glob or list of them")
    columns: Columns | None = Field(None, description="how a row of dataset or files becomes a conversation")
    order: Literal["context_first", "question_first", "both"] = Field(
        "context_first", description="of context and question; both: even rows context first, odd rows question first"
    )
    limit: int | None = Field(None, ge=1, description="use the first rows only")
    shuffle: bool = Field(True, description="a new order of the rows in every epoch")

    @field_validator("sandbox", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        return dict.fromkeys(value) if isinstance(value, list) and all(isinstance(x, str) for x in value) else value

    @field_validator("prompt")
    @classmethod
    def _known_prompt(cls, value: str) -> str:
        match = _PROMPT.fullmatch(value)
        if not match or (match[1] and not 0 < float(match[1]) < 1):
            raise ValueError("must be first_answer, or a fraction between 0 and 1 such as fraction:0.5")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Source:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            got = f"both {' and '.join(given)}" if given else "none"
            raise ValueError(f"a source needs exactly one of {', '.join(_KINDS)}, got {got}")
        problems = self._sandbox_problems() if self.sandbox is not None else self._table_problems(given[0])
        if problems:
            raise Problems(problems)
        return self

    def _table_problems(self, kind: str) -> list[str]:
        problems = [
            f"{name} is for sandbox sources." for name in ("lengths", "prompt") if name in self.model_fields_set
        ]
        if self.columns is None:
            problems.append(f"{kind} needs columns, for example {{context: '{{text}}', answer: '{{summary}}'}}.")
        if kind == "files":
            only = [name for name in ("config", "revision", "data_files") if getattr(self, name) is not None]
            problems += [f"{name} is for dataset, not for files." for name in only]
            if not self.files:
                problems.append("files is empty; give a path, a glob or a list of them.")
        return problems

    def _sandbox_problems(self) -> list[str]:
        foreign = ("config", "split", "revision", "data_files", "columns", "order", "limit", "shuffle")
        problems = [
            f"{name} is for dataset and files, not for sandbox." for name in foreign if name in self.model_fields_set
        ]
        if not self.sandbox:
            problems.append("sandbox is empty; name at least one task.")
        for name, task in self.sandbox.items():
            lengths = task.lengths or self.lengths
            if not lengths:
                problems.append(f"sandbox task {name!r} has no lengths; give the source or the task lengths: [512].")
            problems += filter(None, (_sandbox_problem(name, length, task.options) for length in lengths))
        return list(dict.fromkeys(problems))

    @property
    def name(self) -> str:
        """What it is, for messages and tables."""
        if self.sandbox is not None:
            return f"sandbox: {', '.join(self.sandbox)}"
        if self.dataset is not None:
            return ":".join(filter(None, (self.dataset, self.config, self.split)))
        return self.files if isinstance(self.files, str) else ",".join(self.files)

    @property
    def prompt_fraction(self) -> float | None:
        """The share of tokens of `fraction:...`; None for first_answer."""
        match = _PROMPT.fullmatch(self.prompt)
        return float(match[1]) if match[1] else None


def _sandbox_problem(name: str, length: int, options: dict[str, Any]) -> str | None:
    """What keeps a sandbox task from being built: asked of the generator itself, which checks everything."""
    try:
        samples(name, length, 1, "train", **options)
    except (ValueError, TypeError) as error:
        return f"{error}."
    return None


class DataSettings(Settings):
    """What a step trains on."""

    sources: list[Source] = Field(min_length=1, description="where samples come from")
    max_tokens: int = Field(ge=2, description="longest sample")
    min_tokens: int = Field(2, ge=2, description="shortest sample; shorter ones are dropped")
    pack_tokens: int = Field(ge=2, description="most tokens in a pack; at least max_tokens")
    packs_per_step: int = Field(1, ge=1, description="packs of one optimiser step, over all processes")
    longer: Literal["drop", "truncate", "error"] = Field(
        "drop", description="samples above max_tokens: left out, the middle of their context cut out, or refused"
    )
    seed: int = Field(0, ge=0, description="of the order of the rows and of the sandbox rows")
    balance: bool = Field(True, description="tasks take turns, however large their sources are")
    num_proc: int | None = Field(None, ge=1, description="processes that tokenise data sets")
