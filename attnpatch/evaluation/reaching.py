"""Whether the mask lets a fact reach its question: the method's rules layer by layer, composed over the model."""

from __future__ import annotations

from typing import Any

import torch

from attnpatch.analysis.reach import reach
from attnpatch.evaluation.tasks.base import Document
from attnpatch.kernels import Causal
from attnpatch.kernels.rules import Rule
from attnpatch.patching.calls import Call
from attnpatch.patching.forward import Forward
from attnpatch.patching.method import Method
from attnpatch.patching.sites import Site, inspect_model

TASKS = ("passkey_grid",)


class _Recorder(Call):
    """A prompt's call at one site that notes the rule it is asked to attend under; its tensors hold no data."""

    def __init__(self, site: Site, length: int, index: int) -> None:
        forward = Forward(q_len=length, index=index)
        heads = torch.empty((1, site.heads or 1, length, 1), device="meta")
        keys = torch.empty((1, site.kv_heads or 1, length, 1), device="meta")
        super().__init__(site, forward, None, None, heads, keys, keys, None, None, {})
        self.rules: list[Rule] = []

    def attend(self, rule, *, rows: slice | None = None):
        self.rules.append(rule)
        return self.query.transpose(1, 2), None

    def stock(self):
        self.rules.append(self.own_rule)
        return self.query.transpose(1, 2), None


def rules_of(model: torch.nn.Module, method: Method, length: int, index: int) -> list[Rule] | None:
    """The rule of every layer for a prompt of `length` tokens, the `index`-th of its run.

    Layers that are not attention pass everything on. None if the method decides by the data, so that no rule exists
    before a prompt is read.
    """
    text = inspect_model(model)
    sites = {site.layer: site for site in text.sites}
    rules: list[Rule] = []
    for layer in range(text.layers):
        call = _Recorder(sites[layer], length, index) if layer in sites else None
        if call is None:
            rules.append(Causal())
            continue
        try:
            if method.check(call.site) is None:
                method.attend(call, lambda inner: inner.stock())
            else:
                call.stock()
        except Exception:  # noqa: BLE001 - a method that reads its tensors fails here in its own way
            return None
        if len(call.rules) != 1:
            return None
        rules += call.rules
    return rules


def document_reach(
    model: torch.nn.Module, method: Method, documents: list[Document], batch_size: int
) -> list[int] | None:
    """Per document 1 if the first answer's fact can reach its question, 0 if the mask forbids it; None if unknown.

    Documents carry `gap`, the distance from each answer to its fact. Those of a batch share what a method draws.
    """
    known: dict[Any, torch.Tensor] = {}
    found = []
    for index, document in enumerate(documents):
        length, answer = len(document.input_ids), document.answers[0]
        rules = rules_of(model, method, length, index // batch_size)
        if rules is None:
            return None
        key = (tuple(rules), length, answer)
        if key not in known:
            known.clear()
            known[key] = reach(rules, length, answer - 1)
        found.append(int(known[key][answer - int(document.per_answer("gap")[0])]))
    return found
