"""A neighbour is there as long as it answers."""

import asyncio
import time

import pytest

from leeway.transport.failures import Lost
from leeway.worker.pipeline.presence import gone

SECONDS = 0.3


class Neighbours:
    """`silent`: who answers nothing; `away`: who cannot be reached."""

    def __init__(self):
        self.silent, self.away, self.asked = set(), set(), []

    async def ask(self, stage):
        self.asked.append(stage)
        if stage in self.silent:
            await asyncio.Event().wait()
        if stage in self.away:
            raise Lost("no connection")


@pytest.mark.parametrize(("how", "words"), [("silent", "silence"), ("away", "no connection")])
async def test_who_answers_no_more_is_gone(how, words):
    neighbours = Neighbours()
    watching = asyncio.create_task(gone([0, 2], neighbours.ask, SECONDS))
    done, _ = await asyncio.wait([watching], timeout=3 * SECONDS)
    assert not done
    getattr(neighbours, how).add(2)
    began = time.monotonic()
    assert await watching == f"stage 2 is gone: it has not answered for 0.3 s ({words})"
    assert time.monotonic() - began > SECONDS / 2
    assert set(neighbours.asked) == {0, 2}


async def test_once_is_no_loss():
    neighbours = Neighbours()
    watching = asyncio.create_task(gone([1], neighbours.ask, SECONDS))
    for _ in range(3):
        neighbours.away = {1}
        await asyncio.sleep(SECONDS / 2)
        neighbours.away = set()
        await asyncio.sleep(SECONDS)
    assert not watching.done()
    watching.cancel()


async def test_nobody_is_gone_where_nobody_is_watched():
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(gone([], Neighbours().ask, 0.01), 0.1)
