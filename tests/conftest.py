from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes says how busy the machine is.
settings.register_profile("leeway", deadline=None)
settings.load_profile("leeway")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write the golden scenarios anew; read the difference before you keep it"
    )


@pytest.fixture
def rewrite(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--rewrite")


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    """A program that runs in this process sets its own, which would end the tests with the next Ctrl-C of a test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
