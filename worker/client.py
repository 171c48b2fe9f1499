"""The async client of a worker: `join offer pull push pushpull skip barrier leave`, over one HTTP client.

    async with Client("http://localhost:8080", "w0") as client:
        await client.offer(specs, values)
        pulled = await client.pull()
        while pulled:
            ...
            outcome, pulled = await client.pushpull(UpdateKind.GRADIENT, samples, tensors)

A worker of several groups has one client and one life at the server, and a clock in each group:

    async with Client("http://localhost:8080", "w0", groups=("embedding", "head")) as client:
        embedding, head = client.group("embedding"), client.group("head")
        rows, weights = await asyncio.gather(embedding.pull(), head.pull())

The one rule: nothing is decided here. `worker.group_client` has the calls of a group, `worker.link` what the groups
share, and `worker.session` decides.

Every call may be cancelled. What was sent may have been heard then; an update that was being pushed is still in
hand, and the next call first sees it to its end.

One call at a time in each group; others wait for it. Calls of different groups are under way together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from typing import TYPE_CHECKING, Any

from leeway.errors import ServerLost, SettingError, WireError
from leeway.protocol import routes
from leeway.protocol.addresses import server_url
from leeway.protocol.limits import MAX_GROUPS, MAX_TENSOR_BYTES, MAX_WAIT_SECONDS
from leeway.protocol.requests import DEFAULT_GROUP, UpdateKind
from leeway.transport.http.exchange import SILENCE_SECONDS, Exchange
from leeway.transport.memory.glibc import keep_freed_memory
from leeway.worker import arguments
from leeway.worker.group_client import GroupClient
from leeway.worker.link import Link
from leeway.worker.session.conversation import Conversation
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

    from leeway.protocol.decoder import Allocate
    from leeway.protocol.replies import NotYet
    from leeway.protocol.tensors import TensorSpec
    from leeway.protocol.times import StepTimes
    from leeway.transport.channel import Channel, Tensors, Traffic
    from leeway.worker.group_client import Values
    from leeway.worker.receiving import Pulled
    from leeway.worker.session.states import Outcome

# Long enough that a parked pull costs nothing, short enough that a dead path is noticed; proxies often give up
# on a silent request after 60.
WAIT_SECONDS = 20.0

# How long a server may be away before the worker gives up: longer than a machine takes to boot.
PATIENCE_SECONDS = 300.0

# The goodbye at the end of a `with` block, all its attempts together.
GOODBYE_SECONDS = 5.0


class Client:
    """One worker process at one server.

    `rank`: this worker's stable name. `group`: the group it works in, or `groups`: several of them, whose calls are
    those of `client.group(name)`. `wait_seconds`: how long the server may park one request.
    `patience_seconds`: how long it may be away. `silence_seconds`: how long a connection may be silent in the
    middle of something. `max_body_bytes`: the largest body that is received, by default the server's own limit.
    `channel`: makes what carries the requests, in place of HTTP to `url`.

    Calls raise `ServerLost`; `WireError` for a refusal that is for the user to mend, and `fenced` when another
    process has taken the rank; `ValueError` for a wrong argument, and (as `SettingError`) for what never passes: a
    certificate that is not to be trusted, a server that is no Leeway server; `RuntimeError` in a forked child.
    """

    def __init__(
        self,
        url: str,
        rank: str,
        *,
        group: str | None = None,
        groups: Sequence[str] | None = None,
        wait_seconds: float = WAIT_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        max_body_bytes: int | None = None,
        channel: Callable[[], Channel] | None = None,
    ) -> None:
        arguments.name("rank", rank)
        names = _names(group, groups)
        wait_seconds = arguments.seconds("wait_seconds", wait_seconds, MAX_WAIT_SECONDS)
        patience_seconds = arguments.seconds("patience_seconds", patience_seconds, zero=True)
        silence_seconds = arguments.seconds("silence_seconds", silence_seconds)
        if max_body_bytes is not None:
            max_body_bytes = arguments.integer("max_body_bytes", max_body_bytes, 1, MAX_TENSOR_BYTES)
        self.url = server_url(url)
        keep_freed_memory()
        shared = SharedLife(rank, lambda: uuid.uuid4().hex)
        self._link = Link(
            self.url,
            shared,
            channel or (lambda: Exchange(self.url, silence_seconds=silence_seconds)),
            patience_seconds=patience_seconds,
            max_body_bytes=max_body_bytes,
        )
        self._groups = {
            name: GroupClient(
                Conversation(shared, random=random.Random(), group=name, wait_seconds=wait_seconds), self._link
            )
            for name in names
        }
        self._silence_seconds = silence_seconds

    def group(self, name: str) -> GroupClient:
        """The calls of one of this client's groups. Raises `ValueError` when it is none of them."""
        if name not in self._groups:
            raise ValueError(f"this client has no group {name!r}, but {', '.join(self._groups)}")
        return self._groups[name]

    @property
    def _only(self) -> GroupClient:
        if len(self._groups) > 1:
            names = ", ".join(self._groups)
            raise ValueError(f"this client has several groups ({names}): say which one, with client.group(name)")
        return self._first

    @property
    def conversation(self) -> Conversation:
        """To be read between calls: life, clock, grant, policy, ending."""
        return self._only.conversation

    @property
    def waiting(self) -> NotYet | None:
        """Why the last parked request was sent away; None when the last one was answered."""
        return self._only.waiting

    @property
    def traffic(self) -> Traffic:
        """Of all calls so far; heartbeats are not counted."""
        return self._link.traffic

    @property
    def sent_again(self) -> int:
        """How many requests so far were lost, or refused for now; each is sent again."""
        return self._link.sent_again

    def receive_into(self, allocate: Allocate) -> None:
        """Let `allocate(nbytes)` make the (at most two) buffers for received bodies, from now on."""
        self._only.receive_into(allocate)

    # Beginning and end, of all groups.

    async def __aenter__(self) -> Client:
        await self.join()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def join(self) -> None:
        """Begin a life, unless there is one. `conversation` then has the clock, the policy, index and count."""
        for group in self._groups.values():
            await group.join()

    async def leave(self) -> None:
        """End the life in good order: at once, and for good."""
        async with self._every_turn():
            self._speaker.conversation.leave()
            for group in self._groups.values():
                await group.drive(lambda: False)

    async def close(self) -> None:
        """Leave, in `GOODBYE_SECONDS` at most, and close the connections. Can be called again.

        In a forked child nothing happens: the life and the connections are its parent's.
        """
        if not self._link.home.here:
            return
        try:
            if self._link.channel is not None and self._unfinished:
                with contextlib.suppress(TimeoutError, ServerLost, SettingError, WireError):
                    async with asyncio.timeout(GOODBYE_SECONDS):
                        await self.leave()
        finally:
            await self._link.close()

    async def idle(self) -> None:
        """Return when no call is under way, not even one that is being cancelled."""
        async with self._every_turn():
            pass

    @contextlib.asynccontextmanager
    async def _every_turn(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as turns:
            for group in self._groups.values():
                await turns.enter_async_context(group.turn)
            yield

    @property
    def _unfinished(self) -> bool:
        """Whether there is still something to ask or to compute, a goodbye included."""
        return any(group.conversation.state is not State.ENDED for group in self._groups.values())

    @property
    def _speaker(self) -> GroupClient:
        """A group that asks on behalf of the whole worker: the first that has not ended."""
        return next((group for group in self._groups.values() if group.conversation.ending is None), self._first)

    @property
    def _first(self) -> GroupClient:
        return next(iter(self._groups.values()))

    async def barrier(self, name: str, parties: int = 1) -> None:
        """Wait until all that are live have come to this barrier as often, and at least `parties` have.

        A barrier is the worker's, not a group's: first every group's update in hand is seen to its end.
        """
        name, parties = arguments.name("barrier", name), arguments.parties(parties)
        for group in self._groups.values():
            await group.settle()
        await self._speaker.barrier(name, parties)

    async def status(self) -> dict[str, Any]:
        """The server's whole state: who waits, why, and for whom."""
        async with asyncio.timeout(self._silence_seconds):
            document: dict[str, Any] = await self._link.connected().read_json(routes.STATUS, {})
            return document

    # The iterations, of the only group: see `GroupClient`.

    async def offer(
        self,
        specs: Sequence[TensorSpec],
        values: Values,
        *,
        whole: bool = False,
        aliases: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        await self._only.offer(specs, values, whole=whole, aliases=aliases)

    async def withdraw(self) -> None:
        await self._only.withdraw()

    async def pull(self) -> Pulled | None:
        return await self._only.pull()

    async def push(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors,
        metrics: Mapping[str, float] | None = None,
        times: StepTimes | None = None,
    ) -> Outcome:
        return await self._only.push(kind, samples, tensors, metrics, times)

    async def pushpull(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors,
        metrics: Mapping[str, float] | None = None,
        times: StepTimes | None = None,
    ) -> tuple[Outcome, Pulled | None]:
        return await self._only.pushpull(kind, samples, tensors, metrics, times)

    async def skip(self, times: StepTimes | None = None) -> tuple[Outcome, Pulled | None]:
        return await self._only.skip(times)

    async def settle(self) -> Outcome | None:
        return await self._only.settle()


def _names(group: str | None, groups: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the groups, as the two arguments say them. Raises `ValueError`."""
    if groups is None:
        return (arguments.name("group", DEFAULT_GROUP if group is None else group),)
    if group is not None:
        raise ValueError("give one of group= and groups=, not both")
    if isinstance(groups, str):
        raise ValueError(f"groups must be a list of names: groups=({groups!r},), or group={groups!r}")
    names = tuple(arguments.name("group", name) for name in groups)
    if not 1 <= len(names) <= MAX_GROUPS or len(set(names)) < len(names):
        raise ValueError(f"groups must be 1 to {MAX_GROUPS} different names, not {list(names)}")
    return names
