"""A sequence run beside the newest one by the same patched model, with nothing that was declared for that one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers import PreTrainedModel

from attnpatch.patching.install import INSTALLATION_KEY
from attnpatch.patching.sites import text_base


@contextmanager
def beside(model: PreTrainedModel, *, images: bool) -> Iterator[None]:
    """Forwards inside belong to a sequence that stands beside the newest one and has its number, and so its seeds.

    images: its prompts hold the same images as the newest one. Without, methods about images let all of it through
    untouched, whatever their `text_only` says. A declared end of the prompt does not hold for it. Methods that are
    not about images act on it as on any prompt. A model without patches is left alone.
    """
    installation = text_base(model).__dict__.get(INSTALLATION_KEY)
    if installation is None:
        yield
        return
    changes = {"sequences": max(installation.sequences - 1, 0), "declared_prompt": None}
    if not images:
        changes |= {"asking": [], "declared_images": None}
    before = {name: getattr(installation, name) for name in changes}
    vars(installation).update(changes)
    try:
        yield
    finally:
        vars(installation).update(before)
