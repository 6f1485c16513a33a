"""Samples from tables: data sets of the Hub and local files, rendered and tokenised once and cached by `datasets`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from attnpatch.training.conversation import read_conversation
from attnpatch.training.data_settings import DataSettings, Source
from attnpatch.training.problems import DataError
from attnpatch.training.render import Renderer
from attnpatch.training.samples import Sample
from attnpatch.training.sources import SourceFacts
from attnpatch.training.table_files import Table, open_tables, quiet_without_terminal
from attnpatch.training.templates import EmptyField

_VERSION = 1  # of everything between a row and its tokens: a change here renders cached rows anew
KEPT, LONG, SHORT, EMPTY = "kept", "long", "short", "empty"


class TableSamples:
    """The samples of a `dataset` or `files` source. A row of the order is a row of a table that was not dropped.

    Raises:
        DataError: the data cannot be read, has no row that can be used, or a row with a mistake in it.
    """

    def __init__(self, source: Source, number: int, data: DataSettings, answers_only: bool, tokenizer: Any) -> None:
        self._source, self._answers_only = source, answers_only
        where = f"data.sources.{number} ({source.name!r})"
        renderer = Renderer(tokenizer)
        self.facts = SourceFacts(
            source.name, source.task, source.omega, source.weight, 0, 0, 0, rendering=renderer.description
        )
        self._tables: list[tuple[str, Any]] = []
        self._rows: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        for table in open_tables(source, where):
            tokenised = _tokenise(_Tokenise(renderer, source, data, table.name, where), table, tokenizer, data)
            self._take(tokenised, table.name)
        if not self._rows:
            raise DataError(_nothing_left(where, self.facts, data))

    def sample(self, row: int, epoch: int) -> Sample:
        table, index = self._rows[row]
        name, rows = self._tables[table]
        made = rows[index]
        tokens, end = tuple(made["input_ids"]), made["prompt_end"]
        start = end if self._answers_only else 1
        weights = (0.0,) * start + (1.0,) * (len(tokens) - start)
        return Sample(tokens, weights, end, self._source.task, f"{name}#{index + 1}")

    def _take(self, tokenised: Any, name: str) -> None:
        facts = self.facts
        states, lengths = tokenised["state"][:], tokenised["length"][:]
        for index, (state, length) in enumerate(zip(states, lengths, strict=True)):
            if state == KEPT:
                self._rows.append((len(self._tables), index))
                self.lengths.append(length)
        facts.rows += len(tokenised)
        facts.samples = len(self._rows)
        facts.tokens = sum(self.lengths)
        facts.dropped_long += states.count(LONG)
        facts.dropped_short += states.count(SHORT)
        facts.dropped_empty += states.count(EMPTY)
        facts.truncated += sum(tokenised["truncated"][:])
        facts.apart += sum(tokenised["apart"][:])
        self._tables.append((name, tokenised))


@dataclass
class _Tokenise:
    """What `datasets.map` calls for every row; has to be pickled where several processes share the work."""

    renderer: Renderer
    source: Source
    data: DataSettings
    table: str
    where: str

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        try:
            return self._row(row, index)
        except EmptyField as error:
            if self.source.files is None:
                return _left_out(EMPTY)
            raise DataError(
                f"{self.where}, {self.table!r}, row {index + 1}: column {error.column!r} is missing or null. Fill it, "
                "or take the row out."
            ) from None
        except DataError as error:
            raise DataError(f"{self.where}, {self.table!r}, row {index + 1}: {error}") from error

    def _row(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        order = self.source.order
        context_first = order == "context_first" or (order == "both" and index % 2 == 0)
        conversation = read_conversation(row, self.source.columns, context_first)
        if conversation is None:
            return _left_out(EMPTY)
        rendered, truncated = self.renderer(conversation), False
        if len(rendered.input_ids) > self.data.max_tokens:
            if self.data.longer == "error":
                raise DataError(
                    f"{len(rendered.input_ids)} tokens are more than data.max_tokens ({self.data.max_tokens}). Set "
                    "data.longer to drop or truncate, or raise max_tokens."
                )
            rendered = (
                self.renderer.fit(conversation, self.data.max_tokens) if self.data.longer == "truncate" else None
            )
            truncated = True
        if rendered is None:
            return _left_out(LONG)
        if len(rendered.input_ids) < self.data.min_tokens:
            return _left_out(SHORT)
        return {
            "input_ids": rendered.input_ids,
            "length": len(rendered.input_ids),
            "prompt_end": rendered.prompt_end,
            "state": KEPT,
            "truncated": truncated,
            "apart": rendered.apart,
        }


def _left_out(state: str) -> dict[str, Any]:
    return {"input_ids": [], "length": 0, "prompt_end": 0, "state": state, "truncated": False, "apart": False}


def _tokenise(function: _Tokenise, table: Table, tokenizer: Any, data: DataSettings) -> Any:
    from datasets import Features, List, Value

    features = {"input_ids": List(Value("int32")), "length": Value("int32"), "prompt_end": Value("int32")}
    features |= {"state": Value("string"), "truncated": Value("bool"), "apart": Value("bool")}
    settings = [
        _VERSION,
        table.rows._fingerprint,
        table.name,
        function.source.columns.model_dump(),
        function.source.order,
        data.max_tokens,
        data.min_tokens,
        data.longer,
        _tokenizer_fingerprint(tokenizer),
    ]
    with quiet_without_terminal():
        return table.rows.map(
            function,
            with_indices=True,
            remove_columns=table.rows.column_names,
            features=Features(features),
            num_proc=data.num_proc,
            # datasets would hash the pickled tokenizer, which changes with its padding state.
            new_fingerprint=hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32],
            desc=f"tokenising {table.name}",
        )


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    parts = [type(tokenizer).__name__, text, tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _nothing_left(where: str, facts: SourceFacts, data: DataSettings) -> str:
    if not facts.rows:
        return f"{where} has no rows."
    return (
        f"{where}: none of its {facts.rows} rows can be used: {facts.dropped_long} are longer than data.max_tokens "
        f"({data.max_tokens}), {facts.dropped_short} shorter than data.min_tokens ({data.min_tokens}), "
        f"{facts.dropped_empty} lack a question or an answer."
    )
