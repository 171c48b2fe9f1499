"""The same client for a plain training loop: an event loop in a background thread, and calls that wait for it.

The one rule: nothing is decided or kept here. Each method hands one coroutine of `worker.client.Client` to the
loop (`worker.background`) and returns what it returns. Heartbeats go on in the loop's thread while the caller
computes; torch lets go of the interpreter lock meanwhile.
"""

from __future__ import annotations

import atexit
import contextlib
import weakref
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from leeway.errors import SessionClosed
from leeway.worker.background import Background
from leeway.worker.calls import IN_DOUBT
from leeway.worker.client import Client
from leeway.worker.forks import Home
from leeway.worker.group_client import GroupClient

if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from leeway.worker.session.conversation import Conversation

A = TypeVar("A")  # what is asynchronous
P = ParamSpec("P")
T = TypeVar("T")

# After Ctrl-C, what was being sent is given up; this is for its connection to be closed, no more.
GIVE_UP_SECONDS = 5.0


class Waits(Protocol[A]):
    """What has calls that wait for those of its asynchronous `client`."""

    client: A

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Have the loop do it, and wait for what comes of it."""


def waiting(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Waits[A], P], T]:
    """A method of the asynchronous client, as one that waits."""

    @wraps(method)
    def call(self: Waits[A], /, *values: P.args, **named: P.kwargs) -> T:
        return self.run(lambda: method(self.client, *values, **named))

    return call


class BlockingClient:
    """`Client` without `await`; the arguments and what is raised are the same.

    For one thread. An exception that is raised in it while a call waits (Ctrl-C) cancels that call, as
    cancelling the coroutine would: the client can be used afterwards. Closed at the end of a `with` block, when
    nobody refers to it any more, or at the interpreter's exit. In a forked child every call raises `RuntimeError`.
    """

    def __init__(self, url: str, rank: str, **options: Any) -> None:
        self.client = Client(url, rank, **options)
        self._home = Home(f"the worker {rank}")
        self._closed: str | None = None
        self._ends = contextlib.AsyncExitStack()
        self._ends.push_async_callback(self.client.close)
        self._background = Background(self._ends.aclose)
        self._finalizer = weakref.finalize(self, _abandon, self._background, self._home)
        self._finalizer.atexit = False
        # The thread comes last: whatever interrupts this, somebody ends it.
        self._background.start()
        _OPEN.add(self)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._background.loop

    @property
    def closed(self) -> bool:
        return self._closed is not None

    @property
    def ended(self) -> bool:
        """Whether it holds its rank no more, as far as this process knows."""
        return self._closed is not None or not self._home.here or self.client.ended

    @property
    def conversation(self) -> Conversation:
        """To be read between calls: life, clock, grant, index, count, policy, ending."""
        return self.client.conversation

    def __enter__(self) -> BlockingClient:
        try:
            self.join()
        except BaseException:
            # There will be no exit.
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.check()
        call = self._background.call(work)
        try:
            if not self._background.hand_over(call):
                self.check()  # it has been closed in between
                raise RuntimeError("the thread of this client has ended")
            call.wait()
        except BaseException:
            # Ctrl-C comes at any moment, also just before or after the call was handed over. What was being sent is
            # given up, and the coroutine has to let go before another one begins.
            if not call.done and self._background.cancel(call):
                call.wait(GIVE_UP_SECONDS)
            raise
        return call.result()

    def check(self) -> None:
        """Whether calls can be made: `RuntimeError` in a forked child, `SessionClosed` when it is closed."""
        self._home.check()
        if self._closed is not None:
            raise SessionClosed(self._closed)

    def end_with(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the loop do this too at the end of this client. It must not refer to it."""
        self._ends.push_async_callback(close)

    def group(self, name: str | None = None) -> BlockingGroup:
        """The calls of one of its groups; None: of its only one. Raises `ValueError` when it is none."""
        return BlockingGroup(self, self.client.group(name))

    reach = waiting(Client.reach)
    join = waiting(Client.join)
    work_in = waiting(Client.work_in)
    take_place = waiting(Client.take_place)
    begin_anew = waiting(Client.begin_anew)
    barrier = waiting(Client.barrier)
    status = waiting(Client.status)
    leave = waiting(Client.leave)

    offer = waiting(Client.offer)
    pull = waiting(Client.pull)
    push = waiting(Client.push)
    pushpull = waiting(Client.pushpull)
    skip = waiting(Client.skip)
    settle = waiting(Client.settle)
    optimizer = waiting(Client.optimizer)
    set_optimizer = waiting(Client.set_optimizer)

    def withdraw(self) -> None:
        """Nothing happens when no call can be made any more."""
        if self._closed is None and self._home.here:
            self.run(self.client.withdraw)

    def close(self, why: str = "this client is closed") -> None:
        """Leave, close the connections and end the thread, in a few seconds at most. Can be called again, from any
        thread, and from a signal handler while a call waits: that one raises `SessionClosed`.

        `why`: what later calls are told. In a forked child nothing happens: all this is its parent's.
        """
        if not self._home.here:
            return
        if self._closed is None:
            self._closed = why
        self._finalizer.detach()
        self._background.end(f"{self._closed}, while this call waited; {IN_DOUBT}")
        self._background.join(2 * GIVE_UP_SECONDS)


class BlockingGroup:
    """`GroupClient` without `await`: the calls of one group of a `BlockingClient`.

    Threads may have a group each: their calls are under way together.
    """

    def __init__(self, worker: BlockingClient, client: GroupClient) -> None:
        self.client = client
        self.worker = worker  # is closed when nobody refers to it

    @property
    def conversation(self) -> Conversation:
        """To be read between calls: life, clock, grant, index, count, policy, ending."""
        return self.client.conversation

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self.worker.run(work)

    offer = waiting(GroupClient.offer)
    withdraw = waiting(GroupClient.withdraw)
    pull = waiting(GroupClient.pull)
    push = waiting(GroupClient.push)
    pushpull = waiting(GroupClient.pushpull)
    skip = waiting(GroupClient.skip)
    settle = waiting(GroupClient.settle)
    optimizer = waiting(GroupClient.optimizer)
    set_optimizer = waiting(GroupClient.set_optimizer)


_OPEN: weakref.WeakSet[BlockingClient] = weakref.WeakSet()
_LEAVING: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def _abandon(background: Background, home: Home) -> None:
    """Nobody refers to the blocking client any more. This runs in any thread at any moment, so it waits for nothing."""
    if home.here:
        _LEAVING.add(background.thread)
        background.end("nobody refers to this client any more")


@atexit.register
def _close_all() -> None:
    for client in list(_OPEN):
        client.close()
    for thread in list(_LEAVING):
        thread.join(GIVE_UP_SECONDS)
