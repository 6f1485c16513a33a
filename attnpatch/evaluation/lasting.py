"""What of a result is the same every time it is computed: all but times, memory and the story of the run."""

from __future__ import annotations

from typing import Any

CELL = ("date", "seconds", "speed", "peak_memory", "command")
ROW = ("prefill_tokens_per_s", "decode_tokens_per_s", "peak_memory")
# `unpatched` and `reused_cells` say how much this run had to compute.
RUN = ("command", "seconds", "speed", "peak_rss_bytes", "reused_cells", "unpatched")


def lasting(results: dict[str, Any]) -> dict[str, Any]:
    """`Results.to_dict()`, or a results.json, without what differs between two runs of the same request.

    Equal to the last digit whether a run went through, was killed and run again, or was split over processes.
    """
    machine = {key: value for key, value in results["run"]["machine"].items() if key != "processes"}
    return {
        **results,
        "run": {**_without(results["run"], RUN), "machine": machine},
        "summary": [_without(row, ROW) for row in results["summary"]],
        "cells": [_without(cell, CELL) for cell in results["cells"]],
    }


def _without(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}
