"""The neighbours of a stage over a network, for coroutines: a door for what comes, links for what goes.

The one rule: all of it runs in one loop. Whoever waits here is told when the life ends, whatever they wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog

from leeway.protocol.handovers import Direction
from leeway.transport.credentials.credentials import NOTHING
from leeway.worker.pipeline.carried import Carried
from leeway.worker.pipeline.changes import Changes
from leeway.worker.pipeline.door import Door
from leeway.worker.pipeline.links import Links
from leeway.worker.pipeline.neighbours import Dropped
from leeway.worker.pipeline.presence import gone

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.protocol.lives import Life
    from leeway.transport.credentials.credentials import Credentials
    from leeway.worker.pipeline.parcels import Arrived, Parcel
    from leeway.worker.pipeline.peers import Peers

# For how long a stage waits for another without a word, and between one word and the next.
FIRST_WORD_SECONDS = 20.0
WORD_SECONDS = 60.0

_GIVEN = {
    Direction.FORWARD: "activations of micro-batch",
    Direction.BACKWARD: "errors of micro-batch",
    Direction.SHARE: "share of a gradient",
}

_log = structlog.get_logger("worker.pipeline")


class Neighbourhood:
    """To be made in a running loop; `open` comes first, because the join tells others the address."""

    def __init__(self, credentials: Credentials = NOTHING) -> None:
        self.loop = asyncio.get_running_loop()
        self._carried = Carried()
        self._changes = Changes()
        self._door = Door(self._changes, self._carried, credentials.to_listener())
        self._links = Links(self._changes, self._carried, self._fail, credentials.to_neighbour())
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

    async def close(self, why: str = "this stage is closed") -> None:
        """Can be called again."""
        self.drop(why)
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
        beside = [stage for stage in (peers.stage - 1, peers.stage + 1) if peers.has(stage)]

        async def watch() -> None:
            self._fail(Dropped(await gone(beside, self._links.ask, seconds)))

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
        label = parcel.handover.label
        await self._until(lambda: self._links.is_free(label), f"stage {label.receiver} to take what it is handed")
        self._links.begin(parcel)

    async def receive(self, stage: int, direction: Direction, micro_batch: int) -> Arrived:
        self._check()
        boxes, key = self._door.boxes, (stage, direction, micro_batch)
        assert boxes is not None, "an iteration has begun"
        with boxes.wanting(key):
            self._changes.tell()
            what = _GIVEN[direction] if direction is Direction.SHARE else f"{_GIVEN[direction]} {micro_batch}"
            await self._until(lambda: boxes.is_here(key), f"stage {stage} to hand over the {what}")
            arrived = boxes.take(key)
        self._changes.tell()
        return arrived

    async def flush(self) -> None:
        """Returns when nothing is on its way any more."""
        await self._until(lambda: self._carried.in_flight == 0, "the others to take what they were handed")

    async def _until(self, so: Callable[[], bool], what: str) -> None:
        """Wait until it is so, in this life, and say now and then for what. Raises what has ended it."""
        self._check()
        peers = self._peers
        began = self.loop.time()
        due = began + FIRST_WORD_SECONDS
        while not so():
            try:
                async with asyncio.timeout_at(due):
                    await self._changes.wait()
            except TimeoutError:
                assert peers is not None, "without a life nobody waits"
                seconds, due = round(self.loop.time() - began), self.loop.time() + WORD_SECONDS
                _log.info(
                    "waiting", rank=peers.life.rank, stage=peers.stage, seconds=seconds, detail=f"waits for {what}"
                )
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
