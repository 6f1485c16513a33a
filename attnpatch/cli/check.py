"""`attnpatch-eval check`: what a run would need, what of it is here, and how to get the rest."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from attnpatch.cli.console import show, show_json
from attnpatch.cli.requested import Requested
from attnpatch.evaluation.checking import Finding, all_there, check

STYLES = {"ok": "green", "unknown": "yellow", "missing": "bold red"}


def check_request(asked: Requested, as_json: bool) -> bool:
    """Print what there is and what is missing; True if nothing is."""
    findings = check(asked.suite, asked.model, asked.files)
    fine = all_there(findings)
    if as_json:
        show_json(
            {
                "suite": asked.suite.name,
                "model": asked.suite.model,
                "ok": fine,
                "findings": [finding.to_dict() for finding in findings],
            }
        )
        return fine
    missing = sum(finding.status == "missing" for finding in findings)
    show(_table(asked, findings), Text("nothing is missing" if fine else f"{missing} missing", style="bold"))
    return fine


def _table(asked: Requested, findings: list[Finding]) -> Table:
    """Findings that say the same share a row."""
    alike: dict[tuple, list[str]] = {}
    for one in findings:
        alike.setdefault((one.part, one.status, one.found, one.fix), []).append(one.name)
    table = Table(title=f"{asked.suite.name} on {asked.suite.model}", title_justify="left")
    for title in ("for", "what", "status", "found", "how to get it"):
        table.add_column(title, overflow="fold")
    parts = [part for part, *_ in alike]
    for index, ((part, status, found, fix), names) in enumerate(alike.items()):
        texts = (part, "\n".join(names), Text(status, style=STYLES[status]), Text(found), Text(fix or "-"))
        table.add_row(*texts, end_section=part not in parts[index + 1 :])
    return table
