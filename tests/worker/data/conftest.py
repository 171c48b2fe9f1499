import pytest

from tests.worker.data.publisher import CONTENT, publishing


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def publisher():
    """A server that has `/file`."""
    with publishing({"/file": CONTENT}) as server:
        yield server
