"""What all groups of a worker share on the way to its server: the channel, the calls that are under way, the patience,
the heartbeat, the counts."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, TypeVar

import structlog

from leeway.errors import WireError
from leeway.protocol.limits import MAX_WAIT_SECONDS
from leeway.protocol.refusals import Refused
from leeway.transport.channel import Traffic
from leeway.transport.failures import Lost
from leeway.worker.calls import Calls
from leeway.worker.forks import Home
from leeway.worker.heartbeat import beat
from leeway.worker.patience import Patience
from leeway.worker.session.backoff import Backoff
from leeway.worker.session.refusals import REACTIONS, Reaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from leeway.protocol.decoder import Allocate
    from leeway.protocol.membership import Joined
    from leeway.transport.channel import Answer, Channel, Sent, Tensors
    from leeway.worker.session.shared_life import SharedLife

log = structlog.get_logger("worker.client")

T = TypeVar("T")


class Link:
    """To the server at `url`. `open_channel` is called once, when the first request is sent, in the loop that sends it.

    `max_body_bytes`: the largest body that is received, by default the server's own limit.
    """

    def __init__(
        self,
        url: str,
        shared: SharedLife,
        open_channel: Callable[[], Channel],
        *,
        patience_seconds: float,
        max_body_bytes: int | None,
    ) -> None:
        self.url = url
        self.home = Home(f"the worker {shared.rank}")
        self.patience = Patience(url, shared.rank, patience_seconds)
        self.calls = Calls()
        self.traffic = Traffic()
        self.sent_again = 0
        self.channel: Channel | None = None
        self.joining = asyncio.Lock()
        self._shared = shared
        self._open = open_channel
        self._max_body_bytes = max_body_bytes
        self._heartbeat: asyncio.Task[None] | None = None
        # Is told, in the loop, what heartbeats have found: the life is over, whatever is waited for.
        self.on_life_over: Callable[[Exception], None] | None = None

    def connected(self) -> Channel:
        """The channel. Raises `SessionClosed` once it has been closed: another is never opened."""
        self.home.check()
        if self.channel is None:
            self.calls.check()
            self.channel = self._open()
        return self.channel

    async def attempt(
        self,
        request: Sent,
        lost: Callable[[], None],
        tensors: Tensors | None = None,
        *,
        allocate: Allocate | None = None,
    ) -> Answer | None:
        """One exchange; None when it was lost. Raises `ServerLost` when that has gone on for too long."""
        try:
            answer = await self.connected().send(
                request,
                tensors,
                max_body_bytes=self._max_body_bytes or self._shared.limits.max_body_bytes,
                allocate=allocate,
            )
        except Lost as error:
            self.sent_again += 1
            lost()
            self.patience.failed(error)
            return None
        self.traffic.add(answer.traffic)
        match answer.reply:
            case Refused(refusal) if REACTIONS[refusal.code] is Reaction.AGAIN:
                self.sent_again += 1
                self.patience.failed(refusal)
            case Refused(refusal) if REACTIONS[refusal.code] is Reaction.WAIT:
                self.sent_again += 1
                self.patience.asked_to_wait(refusal)
            case _:
                self.patience.answered()
        return answer

    async def wait_out(self, ask: Callable[[Channel], Awaitable[T]]) -> T:
        """What `ask` gets of the server, as often as that takes: for what no conversation asks, and may be asked twice.

        Raises `ServerLost` when the server is away for too long, and the `WireError` of a refusal that will not pass.
        """
        backoff = Backoff(random.Random())
        while True:
            try:
                found = await ask(self.connected())
            except (Lost, WireError) as error:
                if isinstance(error, WireError) and not REACTIONS[error.code].passes:
                    self.patience.answered()
                    raise
                self.sent_again += 1
                if isinstance(error, WireError) and REACTIONS[error.code] is Reaction.WAIT:
                    self.patience.asked_to_wait(error)
                    wanted = error.facts.get("retry_after_seconds")
                    backoff.failed(min(wanted, MAX_WAIT_SECONDS) if isinstance(wanted, int) else None)
                else:
                    self.patience.failed(error)
                    backoff.failed()
                await self.sleep(backoff.delay_seconds)
            else:
                self.patience.answered()
                return found

    async def sleep(self, seconds: float) -> None:
        if seconds:
            began = time.perf_counter()
            await asyncio.sleep(seconds)
            self.traffic.wait_seconds += time.perf_counter() - began

    def keep_alive(self) -> None:
        """See to it that there are heartbeats, once there is a life."""
        if self._heartbeat is None and self._shared.life is not None:
            channel, patience = self.connected(), self.patience.seconds
            self._heartbeat = asyncio.create_task(beat(self._shared, channel, patience, self._life_is_over))

    def _life_is_over(self, error: Exception) -> None:
        if self.on_life_over is not None:
            self.on_life_over(error)

    def tell_of_another_epoch(self, joined: Joined) -> None:
        """The server is not the one that this worker knew: whose model goes on is nothing to guess at."""
        life, going = self._shared.life, self._shared.going
        if life is None or life.epoch == joined.epoch:
            return
        for conversation in going:
            group = joined.groups.get(conversation.group)
            if group is not None:
                whose = (
                    "the server's"
                    if group.specs
                    else f"this worker's, of iteration {conversation.clock}: the server has none"
                )
                log.warning(
                    "the server was started again",
                    server=self.url,
                    rank=conversation.rank,
                    epoch=joined.epoch,
                    detail=f"the model that goes on is {whose}",
                    **({"group": conversation.group} if len(going) > 1 else {}),
                )

    async def close(self) -> None:
        """End the heartbeats and close the connections, of calls that are closed. Can be called again."""
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.cancel()
            await asyncio.wait([heartbeat])
        channel, self.channel = self.channel, None
        if channel is not None:
            await channel.close()
