"""The text sandbox: a word-level language, its tasks, and the training of the packaged model."""

from __future__ import annotations

from attnpatch.sandbox.text.data import TASKS, TaskSpec, samples
from attnpatch.sandbox.text.rows import Sample

__all__ = ["TASKS", "Sample", "TaskSpec", "samples"]
