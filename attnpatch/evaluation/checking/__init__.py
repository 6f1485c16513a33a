"""What a run would need and whether it is here: no weights are read, nothing is fetched."""

from __future__ import annotations

from attnpatch.evaluation.checking.finding import Finding, all_there
from attnpatch.evaluation.checking.machine import check_machine
from attnpatch.evaluation.checking.methods import check_methods
from attnpatch.evaluation.checking.model import check_access, check_model
from attnpatch.evaluation.checking.offline import offline
from attnpatch.evaluation.checking.tasks import check_tasks
from attnpatch.evaluation.loading import ModelRequest
from attnpatch.evaluation.suites import Suite
from attnpatch.evaluation.tasks.options import TaskOptions

__all__ = ["Finding", "all_there", "check"]


def check(suite: Suite, request: ModelRequest, files: TaskOptions | None = None) -> list[Finding]:
    """Findings on the model, the machine, every method and every task.

    Raises:
        UsageError: an unknown dtype or sandbox model.
    """
    access = check_access(request)
    with offline():
        model = check_model(request, suite)
        return [
            *model.findings,
            *access,
            *check_machine(model, suite),
            *check_methods(model, suite),
            *check_tasks(model, suite, files or TaskOptions()),
        ]
