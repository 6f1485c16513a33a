"""Documents of this process, kept by everything they depend on, so that a second evaluation builds none again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from attnpatch.evaluation.tasks.base import Document

LARGEST = 32 * 2**20  # tokens, of 4 bytes


class DocumentCache:
    """The documents used last, up to a number of tokens in all."""

    def __init__(self, largest: int = LARGEST) -> None:
        self.largest, self.tokens = largest, 0
        self._kept: OrderedDict[Hashable, list[Document]] = OrderedDict()

    def get(self, key: Hashable, build: Callable[[], list[Document]]) -> list[Document]:
        """The documents of `key`, built if they are not there. What `build` raises is not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        documents = build()
        self._kept[key] = documents
        self.tokens += _tokens(documents)
        while self.tokens > self.largest and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self.tokens -= _tokens(dropped)
        return documents


def _tokens(documents: list[Document]) -> int:
    return sum(len(document.input_ids) for document in documents)
