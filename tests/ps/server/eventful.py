"""A run in which everything happens that is counted: for tests of what is exposed then."""

import asyncio

import numpy as np

from tests.ps.server.serving import MODEL

SETTINGS = {"mode": "sync", "workers": 3, "lr": 0.5}

GRADIENT = {name: np.ones_like(array) for name, array in MODEL.items()}


async def live_through(server):
    """Of a server with `SETTINGS`: two workers end it, w0 one iteration ahead and waiting for w1; returns its pull."""
    await server.offer()
    workers = [await server.join(rank) for rank in ("w0", "w1")]
    gone = await server.join("w9")
    # A round of sync, a reader who has the newest version already, one worker leaves, another policy.
    for worker in (*workers, gone):
        await worker.step(GRADIENT)
    etag = (await server.get("/v1/params")).headers["etag"]
    assert (await server.get("/v1/params", {"If-None-Match": etag})).status == 304
    await gone.leave()
    await server.put("/v1/policy", {"mode": "ssp", "staleness": 0})
    # A push with NaN is refused, a checkpoint is saved, one worker gets ahead and waits.
    await asyncio.gather(*(worker.pull() for worker in workers))
    (await workers[0].push({"bias": np.full(3, np.nan, np.float32)})).refused(422, "non-finite")
    assert (await server.post("/v1/checkpoints")).status == 201
    await workers[1].push(GRADIENT, metrics={"loss": 0.5})
    await workers[0].push(GRADIENT, metrics={"loss": float("inf")})
    await workers[0].pull()
    await workers[0].push(GRADIENT, metrics={"loss": float("inf")})
    server.clock.now += 2.0
    # Of a replica one stage is there.
    place = {"stage": 1, "stages": 4}
    assert (await server.post("/v1/workers", {"rank": "r0", "session": "r0-session", "place": place})).status == 204
    waiting = asyncio.create_task(workers[0].pull(wait=100))
    await server.until(lambda: len(server.runtime.machine.groups["default"].waiting))
    server.clock.now += 3.0
    return waiting
