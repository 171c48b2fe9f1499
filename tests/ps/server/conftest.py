"""Servers and workers for the tests of the HTTP layer."""

import contextlib

import numpy as np
import pytest
import structlog

from tests.ps.server.serving import MODEL, serve


@pytest.fixture
async def start():
    """Start servers with settings of their own; all are ended with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings):
            return await stack.enter_async_context(serve(**settings))

        yield start


@pytest.fixture
async def server(start):
    """A server in async mode that has the model."""
    one = await start(mode="async")
    await one.offer()
    return one


@pytest.fixture
async def worker(server):
    """Its one worker, whose pull of iteration 0 is granted."""
    one = await server.join("w0")
    await one.pull()
    return one


@pytest.fixture
def gradient():
    """An update for all trainable tensors of the model, and its buffers."""
    return {name: np.ones_like(array) for name, array in MODEL.items()}


@pytest.fixture(autouse=True)
def _quiet():
    """Logs go nowhere, whatever another test has configured; `structlog.testing.capture_logs` still has them."""

    def drop(*_):
        raise structlog.DropEvent

    structlog.reset_defaults()
    structlog.configure(processors=[drop])
    yield
    structlog.reset_defaults()
