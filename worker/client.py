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
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from leeway.errors import ServerLost, SettingError, WireError
from leeway.protocol import routes
from leeway.protocol.addresses import server_url
from leeway.protocol.codes import Code
from leeway.protocol.fields import shown
from leeway.protocol.limits import MAX_GROUPS, MAX_TENSOR_BYTES, MAX_WAIT_SECONDS
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.transport.credentials.credentials import NOTHING
from leeway.transport.http.exchange import SILENCE_SECONDS, Exchange
from leeway.transport.memory.glibc import keep_freed_memory
from leeway.worker import arguments
from leeway.worker.group_client import GroupClient
from leeway.worker.link import Link
from leeway.worker.session.arrival import Arrival
from leeway.worker.session.conversation import Conversation
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import State

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

    from leeway.protocol.membership import Joined
    from leeway.protocol.pulls import NotYet
    from leeway.protocol.replicas import Place, Replica
    from leeway.transport.channel import Channel, Traffic
    from leeway.transport.credentials.credentials import Credentials

# Long enough that a parked pull costs nothing, short enough that a dead path is noticed; proxies often give up
# on a silent request after 60.
WAIT_SECONDS = 20.0

# How long a server may be away before the worker gives up: longer than a machine takes to boot.
PATIENCE_SECONDS = 300.0

# The goodbye at the end of a `with` block, all its attempts together.
GOODBYE_SECONDS = 5.0

P = ParamSpec("P")
T = TypeVar("T")


def of_only_group(
    method: Callable[Concatenate[GroupClient, P], T],
) -> Callable[Concatenate[Client, P], T]:
    """A call of a group, as one of the client that has no other."""

    @wraps(method)
    def call(self: Client, /, *values: P.args, **named: P.kwargs) -> T:
        return method(self.group(), *values, **named)

    return call


class Client:
    """One worker process at one server.

    `rank`: this worker's stable name. `group`: the group it works in, or `groups`: several of them, whose calls are
    those of `client.group(name)`. `wait_seconds`: how long the server may park one request.
    `patience_seconds`: how long it may be away. `silence_seconds`: how long a connection may be silent in the
    middle of something. `max_body_bytes`: the largest body that is received, by default the server's own limit.
    `one_after_another`: no call is made while another one waits, in whichever group; so the server may break a circle
    of such workers, each waiting in one group and missed in the next (`deadlock`).
    `credentials`: what the server is shown, and whose certificate is believed.
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
        one_after_another: bool = False,
        credentials: Credentials = NOTHING,
        channel: Callable[[], Channel] | None = None,
    ) -> None:
        arguments.name("rank", rank)
        names = _names(group, groups)
        wait_seconds = arguments.seconds("wait_seconds", wait_seconds, MAX_WAIT_SECONDS)
        patience_seconds = arguments.seconds("patience_seconds", patience_seconds, zero=True)
        silence_seconds = arguments.seconds("silence_seconds", silence_seconds)
        if max_body_bytes is not None:
            max_body_bytes = arguments.integer("max_body_bytes", max_body_bytes, 1, MAX_TENSOR_BYTES)
        if channel is not None:
            arguments.function("channel", channel)
        self.url = server_url(url)
        keep_freed_memory()
        self._shared = shared = SharedLife(
            rank, lambda: uuid.uuid4().hex, one_after_another=bool(one_after_another), wait_seconds=wait_seconds
        )
        self._link = Link(
            self.url,
            shared,
            channel or (lambda: Exchange(self.url, silence_seconds=silence_seconds, credentials=credentials)),
            patience_seconds=patience_seconds,
            max_body_bytes=max_body_bytes,
        )
        self.credentials = credentials
        self._silence_seconds = silence_seconds
        self._wait_seconds = wait_seconds
        self._groups = {name: self._group_client(name) for name in names}
        # One barrier at a time: how often this worker has come to each is counted.
        self._arriving = asyncio.Lock()

    def _group_client(self, name: str) -> GroupClient:
        conversation = Conversation(self._shared, random=random.Random(), group=name, wait_seconds=self._wait_seconds)
        return GroupClient(conversation, self._link)

    async def work_in(self, groups: Sequence[str], *, create: bool = False) -> None:
        """Work in these groups from now on, in place of the others, in the same life. Nothing has been pulled before.

        `create`: those that are not there are made, each for the keys `NAME/*`. Groups that stay keep what was offered.
        """
        names = _names(None, groups)
        async with self._link.calls.under_way(), self._every_turn():
            if any(group.conversation.grant is not None for group in self._groups.values()):
                raise ValueError("this worker has pulled already: which groups it works in is settled before")
            self._groups = {name: self._groups.get(name) or self._group_client(name) for name in names}
            conversations = [group.conversation for group in self._groups.values()]
            self._shared.replace(conversations, names if create else ())
            if not self._shared.joining:
                conversations[0].rejoin(Code.NOT_JOINED)
            await self._first.begin_anew()

    async def take_place(
        self, place: Place, notes: Callable[[], str] = str, check: Callable[[Joined], None] | None = None
    ) -> None:
        """Be this stage of a replica, and join: until all its stages are there. Asked again for the same stage it tells
        more of the place (its keys), in the same life. Nothing is in hand. `notes`: what the other stages are told with
        each join, as it is then. `check(joined)` raises `WireError` where what a join has told does not do.

        Raises what `join` raises, and `WireError` for a place that does not fit the other stages (`stages-differ`).
        """
        async with self._link.calls.under_way(), self._every_turn():
            self._shared.take_place(place, notes, check)
            await self._first.drive(self._first.has_joined)

    async def begin_anew(self) -> None:
        """Give the life of the replica up, as if this process had been replaced, and be the same stage of the next."""
        async with self._link.calls.under_way(), self._every_turn():
            self._shared.begin_anew()
            await self._first.drive(self._first.has_joined)

    @property
    def replica(self) -> Replica | None:
        """Of which this process is a stage, as the last join has told it."""
        return self._shared.replica

    @property
    def lease_seconds(self) -> float:
        """As the last join has told it; 0 before the first."""
        return self._shared.lease_seconds

    def tell_of_life_over(self, over: Callable[[Exception], None] | None) -> None:
        """Have this called, in the client's loop, with what a heartbeat was refused for (`WireError`), or when none has
        been answered for as long as the client's patience (`ServerLost`).
        """
        self._link.on_life_over = over

    def group(self, name: str | None = None) -> GroupClient:
        """The calls of one of this client's groups; None: of its only one. Raises `ValueError` when it is none."""
        if name is None:
            if len(self._groups) > 1:
                names = ", ".join(self._groups)
                raise ValueError(f"this client has several groups ({names}): say which one, with client.group(name)")
            return self._first
        if name not in self._groups:
            raise ValueError(f"this client has no group {name!r}, but {', '.join(self._groups)}")
        return self._groups[name]

    @property
    def conversation(self) -> Conversation:
        """To be read between calls: life, clock, grant, policy, ending."""
        return self.group().conversation

    @property
    def rank(self) -> str:
        return self._shared.rank

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that it works in."""
        return tuple(self._groups)

    @property
    def barriers(self) -> Mapping[str, int]:
        """How often each named barrier had been passed at the last join."""
        return self._shared.barriers

    @property
    def ended(self) -> bool:
        """Whether it has ended in all its groups."""
        return self._shared.ended

    @property
    def waiting(self) -> NotYet | None:
        """Why the last parked request was sent away; None when the last one was answered."""
        return self.group().waiting

    @property
    def traffic(self) -> Traffic:
        """Of all calls so far; heartbeats are not counted."""
        return self._link.traffic

    @property
    def sent_again(self) -> int:
        """How many requests so far were lost, or refused for now; each is sent again."""
        return self._link.sent_again

    # Beginning and end, of all groups.

    async def __aenter__(self) -> Client:
        try:
            await self.join()
        except BaseException:
            # There will be no exit.
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def reach(self) -> None:
        """Wait until the server is there, and has these groups; nobody joins. Raises what `join` raises."""
        async with self._link.calls.under_way():
            for name in self._groups:
                await self._link.wait_out(partial(_policy_of, name))

    async def join(self) -> None:
        """Begin a life, unless there is one. `conversation` then has the clock, the policy, index and count."""
        for group in self._groups.values():
            await group.join()

    async def leave(self) -> None:
        """End the life in good order: at once, and for good.

        Calls that are under way raise `SessionClosed`, and their updates in hand are dropped, accepted or not.
        """
        self._link.calls.check()
        await self._leave()

    async def _leave(self) -> None:
        self._link.calls.end("this client has left")
        async with self._every_turn():
            self._speaker.conversation.leave()
            for group in self._groups.values():
                await group.drive(lambda: False)

    async def close(self) -> None:
        """Leave, in `GOODBYE_SECONDS` at most, and close the connections, for good. Can be called again.

        Calls that are under way raise `SessionClosed`, and so do all that are made later.
        In a forked child nothing happens: the life and the connections are its parent's.
        """
        if not self._link.home.here:
            return
        self._link.calls.close("this client is closed")
        try:
            if self._link.channel is not None and self._unfinished:
                with contextlib.suppress(TimeoutError, ServerLost, SettingError, WireError):
                    async with asyncio.timeout(GOODBYE_SECONDS):
                        await self._leave()
        finally:
            await self._link.close()

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

        A barrier is the worker's, not a group's: first every group's update in hand is seen to its end, and then it
        waits for no call of theirs. Raises `ValueError` when this worker has ended and can pass no barrier any more.
        """
        name, parties = arguments.name("barrier", name), arguments.parties(parties)
        async with self._link.calls.under_way(), self._arriving:
            for group in self._groups.values():
                await group.part()
            arrival = Arrival(self._shared, name, parties, random=random.Random(), wait_seconds=self._wait_seconds)
            while not arrival.passed:
                await self._arrive(arrival)
                if self._shared.ended and not arrival.passed:
                    raise self._cannot_pass(name)

    async def _arrive(self, arrival: Arrival) -> None:
        """One step on the way."""
        joining = [group for group in self._groups.values() if group.conversation.state is State.JOINING]
        if joining:
            await joining[0].begin_anew()
        elif request := arrival.ask():
            await self._link.sleep(arrival.delay_seconds)
            answer = await self._link.attempt(request, lambda: arrival.lost(request))
            if answer is not None and arrival.ask() is request:
                self._first.keep(answer)
                arrival.answered(request, answer.reply, answer.retry_after_seconds)

    def _cannot_pass(self, name: str) -> Exception:
        conversation = self._first.conversation
        if conversation.error is not None and conversation.ending and conversation.ending.against_our_wish:
            return conversation.error
        why = conversation.ending_detail or conversation.ending
        return ValueError(f"barrier {name!r} cannot be passed: this worker's run has ended ({why})")

    async def status(self) -> dict[str, Any]:
        """The server's whole state: who waits, why, and for whom."""
        async with self._link.calls.under_way(), asyncio.timeout(self._silence_seconds):
            document: dict[str, Any] = await self._link.connected().read_json(routes.STATUS, {})
            return document

    # The iterations, of the only group.

    offer = of_only_group(GroupClient.offer)
    withdraw = of_only_group(GroupClient.withdraw)
    pull = of_only_group(GroupClient.pull)
    push = of_only_group(GroupClient.push)
    pushpull = of_only_group(GroupClient.pushpull)
    skip = of_only_group(GroupClient.skip)
    settle = of_only_group(GroupClient.settle)
    receive_into = of_only_group(GroupClient.receive_into)
    optimizer = of_only_group(GroupClient.optimizer)
    set_optimizer = of_only_group(GroupClient.set_optimizer)


async def _policy_of(group: str, channel: Channel) -> Any:
    return await channel.read_json(routes.POLICY, {"group": group})


def _names(group: str | None, groups: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the groups, as the two arguments say them. Raises `ValueError`."""
    if groups is None:
        return (arguments.name("group", DEFAULT_GROUP if group is None else group),)
    if group is not None:
        raise ValueError("give one of group= and groups=, not both")
    if isinstance(groups, str):
        raise ValueError(f"groups must be a list of names: groups=({groups!r},), or group={groups!r}")
    try:
        names = tuple(groups)
    except TypeError:
        raise ValueError(f"groups is {shown(groups)}, it must be a list of names") from None
    for name in names:
        arguments.name("group", name)
    if not 1 <= len(names) <= MAX_GROUPS or len(set(names)) < len(names):
        raise ValueError(f"groups must be 1 to {MAX_GROUPS} different names; {_what_is_wrong(names)}")
    return names


def _what_is_wrong(names: tuple[str, ...]) -> str:
    twice = next((name for name in names if names.count(name) > 1), None)
    return f"there are {len(names)}" if twice is None else f"{twice!r} is there twice"
