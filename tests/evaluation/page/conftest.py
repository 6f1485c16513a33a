"""A browser, where one is installed."""

from __future__ import annotations

import pytest

from tests.evaluation.page.browser import CHROMIUM, Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    try:
        opened = Browser(tmp_path_factory.mktemp("profile"))
    except (OSError, RuntimeError, TimeoutError) as error:
        pytest.skip(f"{CHROMIUM} does not start: {error}")
    with opened:
        yield opened
