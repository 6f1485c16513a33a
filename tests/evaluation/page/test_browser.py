"""The page in a real browser: it draws, sorts, filters and compares, by mouse and keyboard, and asks for nothing."""

from __future__ import annotations

import json

import pytest

from attnpatch.evaluation import Results
from attnpatch.evaluation.page import write_page
from tests.evaluation.page.made_up import PUBLISHED, made_up, write_samples
from tests.evaluation.page.test_render import HOSTILE, hostile

ROWS = "#scores-table tbody th"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    results = made_up()
    write_samples(folder, results)
    return write_page(results, folder)


@pytest.fixture
def opened(browser, page):
    browser.open(page)
    yield browser
    assert browser.errors == []
    assert browser.requests == [page.as_uri()]


def column(browser, title: str) -> list[str]:
    """The cells of a column of the table of scores, from top to bottom."""
    index = [text.strip(" ▴▾") for text in browser.texts("#scores-table thead th")].index(title)
    return browser.texts(f"#scores-table tbody tr > :nth-child({index + 1})")


def click(browser, selector: str) -> None:
    browser.evaluate(f"document.querySelector({json.dumps(selector)}).click()")


def test_everything_is_drawn(opened):
    assert opened.texts("h1") == ["attnpatch: some/model"]
    assert opened.texts("#badges .badge") == [
        "42 of 43 cells ok", "1 failed", "stock model the same bit for bit after all methods"
    ]  # fmt: skip
    assert len(opened.texts(ROWS)) == 10
    assert len(opened.texts("#budget-charts figure")) == 8
    assert len(opened.texts("#speed-charts figure")) == 8
    assert len(opened.texts("#length-charts figure")) == 4
    assert len(opened.texts("#depth-grids table")) == 5
    assert opened.texts("#problems li") == ["error: out of memory (less)"]
    assert "0.50*" in column(opened, "needle")
    charts = opened.evaluate("document.querySelector('#budget-charts svg[role=img]').getAttribute('aria-label')")
    assert charts.startswith("mean of 2 against mean visible keys per query: stock 1.00 at 32")
    assert not opened.evaluate(
        "document.body.innerHTML.includes('NaN') || document.body.innerText.includes('undefined')"
    )


def test_published_numbers_beside_ours(browser, page, tmp_path):
    hidden = "getComputedStyle(document.querySelector('#published')).display"
    browser.open(page)
    assert browser.evaluate(hidden) == "none"
    browser.open(write_page(made_up(reported=PUBLISHED), tmp_path))
    assert browser.evaluate(hidden) == "block"
    assert column(browser, "needle")[:4] == ["1.00published 0.995", "0.50*", "0.00*", "0.75published 0.8"]
    titles = browser.evaluate("[...document.querySelectorAll('small.published')].map((one) => one.title)")
    assert titles[1] == (
        "needles: 80.00 published for good @16, ours 75.00, difference −5.00; Table 1 [paper]. Other prompts."
    )
    tables = browser.texts("#published caption, #published tbody th, #published tbody td, #published .note")
    assert tables[1:8] == ["needles", "stock", "64", "99.50", "100.00", "+0.50", "12"]
    assert tables[-7:] == ["stock", "64", "5.00", "- (1/2 tasks)", "-", "12", "Figure 3 [paper]"]
    assert browser.errors == []
    browser.choose("#show", "delta")
    assert not browser.texts("small.published")


def test_front_is_marked(opened):
    opened.choose("#filter-length", "0")
    rings = opened.evaluate(
        "[...document.querySelectorAll('#budget-charts figure')].map((one) => one.querySelectorAll('.ring').length)"
    )
    assert rings[:2] == [3, 3]  # stock, good @16, good @8; the bad one is on no front


def test_sorting(opened):
    opened.choose("#filter-length", "0")
    before = opened.texts(ROWS)
    click(opened, '[data-sort="score 1"]')
    assert opened.texts(ROWS)[0] == "stock"
    assert column(opened, "needle") == ["1.00", "0.75", "0.50*", "0.25*", "0.00*"]
    assert opened.texts("[aria-sort=descending]") == ["needle ▾"]
    click(opened, '[data-sort="score 1"]')
    assert column(opened, "needle")[0] == "0.00*"
    click(opened, '[data-sort="score 3"]')  # lower is better, so the first click puts the lowest on top
    assert column(opened, "story ppl")[0] == "2.72"
    click(opened, '[data-sort="name"]')
    assert opened.texts(ROWS) == sorted(before, key=lambda name: (name.split(" @")[0], len(name)))


def test_sorting_by_keyboard(opened):
    opened.evaluate("document.querySelector('[data-sort=name]').focus()")
    opened.key("Tab")
    opened.key("Tab")
    assert opened.evaluate("document.activeElement.dataset.sort") == "keys"
    opened.key("Enter", "\r")
    assert opened.texts("[aria-sort=ascending]") == ["keys ▴"]
    assert opened.evaluate("document.activeElement.dataset.sort") == "keys"  # one can go on from there
    opened.key("Enter", "\r")
    assert opened.texts("[aria-sort=descending]") == ["keys ▾"]


def test_everything_that_acts_can_be_reached_by_keyboard(opened):
    wanted = opened.evaluate(
        "[...document.querySelectorAll('a[href], button, select, input, summary, .scroll')]"
        ".filter((one) => one.offsetParent !== null || one.className === 'skip').length"
    )
    opened.evaluate("window.seen = new Set(); document.addEventListener('focusin', (event) => seen.add(event.target))")
    for _ in range(wanted + 2):
        opened.key("Tab")
    assert opened.evaluate("seen.size") >= wanted


def test_filters(opened):
    opened.choose("#filter-budget", "16")
    assert opened.texts(ROWS) == ["stock", "good @16", "bad @16", "stock", "good @16", "bad @16"]
    opened.choose("#filter-length", "1")
    assert opened.texts(ROWS) == ["stock", "good @16", "bad @16"]
    assert opened.texts("#budget-charts figcaption")[0] == "mean of 2, 128 tokens"
    assert len(opened.texts("#length-charts figure")) == 4  # always over all lengths
    index = opened.evaluate(
        "[...document.querySelectorAll('#filter-task option')].find((o) => o.text === 'story').value"
    )
    opened.choose("#filter-task", index)
    assert len(opened.texts("#budget-charts figure")) == 1
    assert "No task of this choice" in opened.texts("#depth-grids")[0]
    click(opened, "#filters [type=reset]")
    opened.wait(f"document.querySelectorAll({json.dumps(ROWS)}).length === 10")
    opened.choose("#filter-length", "1")
    assert opened.texts("#depth-grids caption") == ["needle, 128 tokens"]


def test_intervals_and_differences(opened):
    opened.choose("#show", "interval")
    assert any(" to " in text for text in column(opened, "needle"))
    opened.choose("#show", "delta")
    shown = column(opened, "needle")
    assert shown[0] == "-"
    assert shown[1].startswith("−0.50*")


def test_documents(opened):
    assert opened.texts("#pair-summary") == [
        "Against stock, good @8 is better on 0, worse on 6 and equal on 6 of 12 documents."
    ]
    assert opened.texts(".pairs tbody tr:first-child > *") == [
        "6", "1.00", "0.00", "−1.00", "word 6", "word stock 6", "word good 6"
    ]  # fmt: skip
    opened.choose("#pair-a", opened.evaluate("[...document.querySelectorAll('#pair-a option')].at(-1).value"))
    assert opened.texts("#pair-summary")[0].startswith("Against bad @16, good @8 is better on 3, worse on 0")
    opened.choose("#pair-only", "worse")
    assert "No document of this kind." in opened.texts("#documents-view")[0]
    opened.choose("#pair-only", "all")
    assert len(opened.texts(".pairs tbody tr")) == 12
    assert opened.evaluate("document.activeElement.id") == "pair-only"
    story = opened.evaluate(
        "[...document.querySelectorAll('#pair-task option')].find((o) => /story/.test(o.text)).value"
    )
    opened.choose("#pair-task", story)
    opened.choose("#pair-a", "0")
    assert "worse on 12" in opened.texts("#pair-summary")[0]  # a higher perplexity
    assert opened.texts(".pairs td.worse")[0] == "+4.67"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes(browser, page, scheme):
    browser.open(page, scheme=scheme)
    back = "getComputedStyle(document.body).backgroundColor"
    assert browser.evaluate(back) == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    click(browser, "#theme")
    assert browser.texts("#theme") == ["Theme: light"]
    assert browser.evaluate(back) == "rgb(255, 255, 255)"
    click(browser, "#theme")
    assert browser.evaluate(back) == "rgb(20, 23, 27)"
    assert browser.errors == []


def test_phone_does_not_scroll_sideways(browser, page):
    browser.open(page, width=390, height=844)
    assert browser.evaluate("document.documentElement.scrollWidth") == 390


def test_print_opens_what_is_folded(opened):
    opened.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.evaluate("[...document.querySelectorAll('details')].every((one) => one.open)")


def test_hostile_names_are_inert(browser, tmp_path):
    path = write_page(hostile(tmp_path), tmp_path)
    browser.open(path)
    assert browser.evaluate("[window.hacked ?? null, document.images.length, document.scripts.length]") == [None, 0, 2]
    assert browser.texts("h1") == [f"attnpatch: {HOSTILE}"]
    assert HOSTILE in browser.texts("#pair-summary")[0]
    assert browser.errors == []
    assert browser.requests == [path.as_uri()]


def test_nothing_measured(browser, tmp_path):
    path = write_page(Results([], {"unpatched": False}), tmp_path)
    browser.open(path)
    assert "No cell is ok" in browser.texts("#scores-table")[0]
    assert browser.texts("#badges .badge")[-1] == "UNPATCH FAILED: do not trust these numbers"
    assert browser.errors == []
