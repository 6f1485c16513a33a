"""`check` on a suite written in place, with everything that loads or connects out of reach."""

from __future__ import annotations

import socket

import pytest

from attnpatch.evaluation.checking import check
from attnpatch.evaluation.loading import CheckpointSource, ModelRequest
from attnpatch.evaluation.suites import checked
from attnpatch.evaluation.tasks.options import TaskOptions


def never(*args, **options):
    raise AssertionError("weights were loaded, or the network was asked")


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(CheckpointSource, "load", never)
    monkeypatch.setattr(socket.socket, "connect", never)


@pytest.fixture
def look(checkpoint):
    """`look(tasks=[...])`: findings by (part, name); `model` and `files` are not the suite's."""

    def run(model=checkpoint, files=None, request=None, **values):
        suite = {"methods": ["stock"], "tasks": ["needle"], "lengths": [96], "model": str(model)}
        asked = ModelRequest(str(model), **(request or {}))
        found = check(checked({**suite, **values}), asked, TaskOptions(**(files or {})))
        return {(one.part, one.name): one for one in found}

    return run
