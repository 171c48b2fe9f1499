"""A browser for the tests beside this file, one a module: it starts slower than it loads a page."""

import pytest

from tests.end_to_end.commands import Commands
from tests.ps.page.browser import chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser):
    """A window as on a desk, with nothing chosen by a reader."""
    browser.resize(1440, 900)
    browser.prefer(color_scheme="light", reduced_motion="reduce")
    yield browser
    browser.js("localStorage.clear(); sessionStorage.clear();")
    browser.driver.get("about:blank")
    browser.complaints()
    browser.asked()


@pytest.fixture
def commands(tmp_path):
    """Starts servers and workers; what they said is shown when the test fails."""
    with Commands(tmp_path) as running:
        yield running
    for name, said in running.said().items():
        print(f"--- {name}\n{said}")
