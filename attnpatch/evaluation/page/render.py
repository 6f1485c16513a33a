"""The page as text: a template with the style, the script and the data in it, and no way out to a network."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnpatch.evaluation.cells import write_atomically
from attnpatch.evaluation.page.data import page_data

if TYPE_CHECKING:
    from attnpatch.evaluation.results import Results

PAGE = "index.html"
# In this order they make up one script.
SCRIPTS = (
    "dom", "format", "scales", "plot", "filters", "published", "table", "charts", "depth", "documents", "facts",
    "main",
)  # fmt: skip
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def page_html(results: Results, folder: str | Path | None = None) -> str:
    """The whole page. `folder`: where the run's samples lie, see `page_data`.

    The same results give the same text.
    """
    data = page_data(results, None if folder is None else Path(folder))
    style, script = _static("page.css"), _script()
    parts = {
        "title": html.escape(f"attnpatch: {data['model']}"),
        "style": style,
        "script": script,
        "data": embedded(data),
        "style_hash": _hash(style),
        "script_hash": _hash(script),
    }
    # One pass: what the parts themselves hold is never filled in again.
    return _PLACE.sub(lambda found: parts[found[1]], _static("page.html"))


def write_page(results: Results, folder: str | Path) -> Path:
    """Write the page into a run's folder; returns its path."""
    path = Path(folder) / PAGE
    write_atomically(path, page_html(results, folder))
    return path


def embedded(data: Any) -> str:
    """JSON that cannot end the script element it stands in, nor start anything else, whatever its strings say."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script() -> str:
    body = "\n".join(_static(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}}})();\n'


def _hash(text: str) -> str:
    """For the content security policy: a browser runs this script and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _static(name: str) -> str:
    return resources.files("attnpatch.evaluation.page").joinpath("static", name).read_text(encoding="utf-8")
