"""The neighbours of a stage over a network, for coroutines: a door for what comes, links for what goes.

The one rule: all of it runs in one loop. Whoever waits here is told when the life ends, whatever they wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from leeway.worker.pipeline.carried import Carried
from leeway.worker.pipeline.changes import Changes
from leeway.worker.pipeline.door import Door
from leeway.worker.pipeline.links import Links
from leeway.worker.pipeline.neighbours import Dropped
from leeway.worker.pipeline.presence import gone

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.protocol.handovers import Direction
    from leeway.protocol.lives import Life
    from leeway.worker.pipeline.parcels import Arrived, Parcel
    from leeway.worker.pipeline.peers import Peers


class Neighbourhood:
    """To be made in a running loop; `open` comes first, because the join tells others the address."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._carried = Carried()
        self._changes = Changes()
        self._door = Door(self._changes, self._carried)
        self._links = Links(self._changes, self._carried, self._fail)
        self._peers: Peers | None = None
        self._ended: Exception | None = Dropped("no life of this replica has begun yet")
        self._watch: asyncio.Task[None] | None = None

    @property
    def carried(self) -> Carried:
        """As it stands: not to be kept."""
        self._carried.waiting = self._door.boxes.waiting if self._door.boxes is not None else 0
        return self._carried

    async def open(self, host: str, port: int) -> str:
        """Listen; the URL. Raises `SettingError`."""
        return await self._door.open(host, port)

    async def close(self) -> None:
        """Can be called again."""
        self.drop("this stage is closed")
        await self._watch_nobody()
        await self._links.close()
        await self._door.close()

    async def begin_life(self, peers: Peers) -> None:
        self._fail(_superseded())
        await self._watch_nobody()
        await self._links.begin_life(peers)
        self._peers, self._ended = peers, None
        self._door.begin_life(peers)

    async def watch(self, seconds: float) -> None:
        """From here on this life is over, too, when a neighbour could not be reached for so long."""
        peers = self._peers
        if peers is None or self._watch is not None:
            return
        beside = {stage: peers.addresses[stage] for stage in (peers.stage - 1, peers.stage + 1) if peers.has(stage)}

        async def watch() -> None:
            self._fail(Dropped(await gone(beside, seconds)))

        self._watch = self.loop.create_task(watch())

    async def _watch_nobody(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def begin(self, clock: int) -> None:
        """Iteration `clock`, later than the one before. Raises `Dropped`."""
        self._check()
        before = self._door.boxes
        if before is not None and clock <= before.clock:
            raise ValueError(
                f"iteration {clock} cannot begin: {before.clock} has, and they follow one another in a life"
            )
        self._door.begin(clock)

    def drop(self, why: str, life: Life | None = None) -> None:
        """End what is under way, and what waits, until the next life. `life`: only in that one."""
        if life is None or (self._peers is not None and self._peers.is_of(life)):
            self._fail(Dropped(why))

    async def send(self, parcel: Parcel) -> None:
        """Returns when it is on its way."""
        await self._until(lambda: self._links.is_free(parcel.handover.label))
        self._links.begin(parcel)

    async def receive(self, stage: int, direction: Direction, micro_batch: int) -> Arrived:
        self._check()
        boxes, key = self._door.boxes, (stage, direction, micro_batch)
        assert boxes is not None, "an iteration has begun"
        with boxes.wanting(key):
            self._changes.tell()
            await self._until(lambda: boxes.is_here(key))
            arrived = boxes.take(key)
        self._changes.tell()
        return arrived

    async def flush(self) -> None:
        """Returns when nothing is on its way any more."""
        await self._until(lambda: self._carried.in_flight == 0)

    async def _until(self, so: Callable[[], bool]) -> None:
        """Wait until it is so, in this life. Raises what has ended it."""
        self._check()
        peers = self._peers
        while not so():
            await self._changes.wait()
            if self._peers is not peers:
                raise _superseded()
            self._check()

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended.with_traceback(None)

    def _fail(self, error: Exception) -> None:
        """The first reason stands."""
        if self._ended is None:
            self._ended = error
        self._links.drop()
        self._door.drop()


def _superseded() -> Dropped:
    return Dropped("the next life of this replica has begun")
