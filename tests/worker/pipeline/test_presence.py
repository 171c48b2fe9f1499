"""A neighbour is there as long as its door can be knocked at: real sockets, one of which is closed."""

import asyncio
import time

import pytest

from leeway.worker.pipeline.presence import gone

SECONDS = 0.3


async def door():
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_who_closes_the_door_is_gone():
    one, address = await door()
    other, another = await door()
    watching = asyncio.create_task(gone({0: address, 2: another}, SECONDS))
    done, _ = await asyncio.wait([watching], timeout=3 * SECONDS)
    assert not done
    other.close()
    await other.wait_closed()
    began = time.monotonic()
    assert f"stage 2 is gone: {another} could not be reached for 0.3 s (" in await watching
    assert time.monotonic() - began > SECONDS / 2
    one.close()
    await one.wait_closed()


async def test_nobody_is_gone_where_nobody_is_watched():
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(gone({}, 0.01), 0.1)
