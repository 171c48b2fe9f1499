"""The way to the other stages: a channel to each, and what is on its way to them.

The one rule: a handover is sent until it is answered. That a neighbour is away decides nothing: the server says when a
life is over, and then all this is dropped.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from leeway.protocol import routes
from leeway.protocol.handovers import Taken
from leeway.protocol.refusals import Refused
from leeway.transport.credentials.credentials import Credentials
from leeway.transport.failures import Lost
from leeway.transport.http.exchange import Exchange
from leeway.worker.session.backoff import Backoff
from leeway.worker.session.refusals import REACTIONS

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from leeway.errors import WireError
    from leeway.protocol.handovers import Direction, Label
    from leeway.transport.channel import Channel
    from leeway.worker.pipeline.carried import Carried
    from leeway.worker.pipeline.changes import Changes
    from leeway.worker.pipeline.parcels import Parcel
    from leeway.worker.pipeline.peers import Peers

_log = structlog.get_logger("worker.pipeline")


class Links:
    """`changes` is told when a handover has come to its end. `failed`: is told what no attempt will mend. `tls`: how
    other stages are spoken with, where their addresses are https.
    """

    def __init__(
        self,
        changes: Changes,
        carried: Carried,
        failed: Callable[[Exception], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._tls = tls
        self._changes = changes
        self._carried = carried
        self._failed = failed
        self._peers: Peers | None = None
        self._channels: dict[int, Channel] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._in_flight: Counter[tuple[int, Direction]] = Counter()
        self._away: set[int] = set()

    async def begin_life(self, peers: Peers) -> None:
        """Each life has a secret of its own, and perhaps other addresses: new channels, opened when first used."""
        await self.close()
        self._peers = peers

    def is_free(self, label: Label) -> bool:
        """Whether one more may be on its way there."""
        assert self._peers is not None
        return self._in_flight[label.receiver, label.direction] < self._peers.in_flight

    def begin(self, parcel: Parcel) -> None:
        """Begin to send it; it must be `is_free`."""
        label = parcel.handover.label
        self._in_flight[label.receiver, label.direction] += 1
        self._carried.in_flight += 1
        task = asyncio.get_running_loop().create_task(self._deliver(parcel))
        self._under_way.add(task)
        task.add_done_callback(lambda task: self._ended(task, label))

    async def ask(self, stage: int) -> None:
        """Whether its process answers. Raises `Lost` and `LeewayError`."""
        await self._channel(stage).read_json(routes.LIVE, {})

    def drop(self) -> None:
        """Nothing of this life is sent any more. Waits for nothing."""
        for task in self._under_way:
            task.cancel()

    async def close(self) -> None:
        self.drop()
        if self._under_way:
            await asyncio.wait(self._under_way)
        channels, self._channels = self._channels, {}
        self._away.clear()
        for channel in channels.values():
            await channel.close()

    def _ended(self, task: asyncio.Task[None], label: Label) -> None:
        self._under_way.discard(task)
        self._in_flight[label.receiver, label.direction] -= 1
        self._carried.in_flight -= 1
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._failed(error)
        self._changes.tell()

    def _channel(self, stage: int) -> Channel:
        assert self._peers is not None
        if stage not in self._channels:
            self._channels[stage] = Exchange(
                self._peers.addresses[stage], credentials=Credentials(self._peers.credentials), tls=self._tls
            )
        return self._channels[stage]

    async def _deliver(self, parcel: Parcel) -> None:
        """Raises `WireError` or `SettingError` for what the next attempt would meet again."""
        stage = parcel.handover.label.receiver
        backoff = Backoff(random.Random())
        began = time.perf_counter()
        while True:
            try:
                answer = await self._channel(stage).send(parcel.handover, parcel.tensors)
            except Lost as lost:
                self._is_away(stage, str(lost))
            else:
                self._carried.sent_bytes += answer.traffic.sent_bytes
                if isinstance(answer.reply, Taken):
                    break
                assert isinstance(answer.reply, Refused), "what a handover is answered with"
                self._refused(stage, answer.reply.error)
                # It has let this one wait for a long time before it said so.
                backoff.succeeded()
            backoff.failed()
            self._carried.sent_again += 1
            await asyncio.sleep(backoff.delay_seconds)
        self._is_there(stage)
        self._carried.sent += 1
        self._carried.sending_seconds += time.perf_counter() - began

    def _refused(self, stage: int, error: WireError) -> None:
        if not REACTIONS[error.code].passes:
            raise error
        if error.status == 503:
            self._is_there(stage)
        else:
            self._is_away(stage, str(error))

    def _is_away(self, stage: int, detail: str) -> None:
        if stage not in self._away:
            self._away.add(stage)
            assert self._peers is not None
            _log.warning(
                "a neighbour is away",
                stage=stage,
                address=self._peers.addresses[stage],
                detail=f"{detail}; what it is handed is sent again until the server says that this life is over",
            )

    def _is_there(self, stage: int) -> None:
        if stage in self._away:
            self._away.discard(stage)
            _log.info("a neighbour is back", stage=stage)
