"""The page as a file: everything in it, nothing that leads out, and nothing in the data that acts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from attnpatch.evaluation import Results
from attnpatch.evaluation.page import PAGE, page_data, page_html, write_page
from attnpatch.evaluation.page.render import SCRIPTS, embedded
from tests.evaluation.page.made_up import PUBLISHED, made_up, write_samples

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1"><!--{{script}}&lt;\u2028\''


def hostile(folder) -> Results:
    results = made_up(**dict.fromkeys(("good", "needle", "reason", "command", "model"), HOSTILE))
    for one in results.cells:
        one["task"] = one["task"] | {"description": HOSTILE}
        one["documents"] = [f"{HOSTILE}{name}" for name in one["documents"]]
        one["key"] = str(abs(hash(one["key"])))
    results.run["suite"]["description"] = HOSTILE
    told = dict.fromkeys(("name", "source", "note"), HOSTILE)
    results.run["suite"]["reported"] = [PUBLISHED[0] | told | {"model": HOSTILE, "scores": {"copy": "accuracy"}}]
    write_samples(folder, results, HOSTILE)
    return results


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def tags(text: str) -> list[str]:
    return sorted(tag for tag, _ in Tags(text).found)


def test_hostile_names_change_no_markup(tmp_path):
    page = page_html(hostile(tmp_path), tmp_path)
    assert tags(page) == tags(page_html(made_up()))
    assert page.count("</script>") == 2
    assert "<img" not in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert data["model"] == HOSTILE
    assert any(HOSTILE in text for one in data["documents"]["answers"] for text in one["wanted"])


def test_embedded_json_comes_back():
    value = {"<!--": ["</ScRipt>", "&amp;", "\u2028", "é", 1.5, None]}
    text = embedded(value)
    assert not re.search("[<>&]", text)
    assert text.isascii()
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="JSON"):
        embedded(float("nan"))


def test_nothing_leads_out():
    page = page_html(made_up())
    for tag, attributes in Tags(page).found:
        for name in ("src", "href", "action", "srcset"):
            assert not attributes.get(name) or attributes[name].startswith(("#", "data:")), (tag, attributes)
    for call in ("fetch(", "XMLHttpRequest", "import(", "WebSocket", "@import", "url(", "innerHTML", "eval("):
        assert call not in page, call
    policy = next(one["content"] for tag, one in Tags(page).found if one.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert re.sub(r"sha256-[\w+/=]+", "HASH", policy).split("; ")[1:] == [
        "style-src 'HASH'", "script-src 'HASH'", "img-src data:", "base-uri 'none'", "form-action 'none'"
    ]  # fmt: skip


def test_same_results_same_page():
    assert page_html(made_up()) == page_html(made_up())


def test_write_beside_the_results(tmp_path):
    path = write_page(made_up(), tmp_path)
    assert path == tmp_path / PAGE
    assert [one.name for one in tmp_path.iterdir()] == [PAGE]


def test_every_static_file_is_used():
    names = {one.name for one in resources.files("attnpatch.evaluation.page").joinpath("static").iterdir()}
    assert names == {"page.html", "page.css", *(f"{name}.js" for name in SCRIPTS)}


@pytest.mark.parametrize("folder", sorted(path.parent for path in ROOT.glob("evals/results/*/index.html")), ids=str)
def test_committed_pages_show_the_committed_results(folder):
    page = (folder / PAGE).read_text()
    assert len(page) < 1_000_000
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert data["lines"] == page_data(Results.load(folder))["lines"]
