"""The same client for a plain training loop: an event loop in a background thread, and calls that wait for it.

The one rule: nothing is decided or kept here. Each method hands one coroutine of `worker.client.Client` to the
loop (`worker.background`) and returns what it returns. Heartbeats go on in the loop's thread while the caller
computes; torch lets go of the interpreter lock meanwhile.
"""

from __future__ import annotations

import atexit
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from leeway.errors import SessionClosed
from leeway.worker.background import Background
from leeway.worker.client import Client
from leeway.worker.forks import Home

if TYPE_CHECKING:
    import asyncio
    import threading
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from types import TracebackType

    from leeway.protocol.requests import UpdateKind
    from leeway.protocol.tensors import TensorSpec
    from leeway.protocol.times import StepTimes
    from leeway.transport.channel import Tensors
    from leeway.worker.group_client import Values
    from leeway.worker.receiving import Pulled
    from leeway.worker.session.conversation import Conversation
    from leeway.worker.session.states import Outcome

T = TypeVar("T")

# After Ctrl-C, what was being sent is given up; this is for its connection to be closed, no more.
GIVE_UP_SECONDS = 5.0

# For the call that was under way when its client was closed.
IN_DOUBT = "an update that was being pushed may have been applied or not"


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
        self._background = Background(self.client.close)
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
        return self._closed is not None or not self._home.here or self.conversation.ending is not None

    @property
    def conversation(self) -> Conversation:
        """To be read between calls: life, clock, grant, index, count, policy, ending."""
        return self.client.conversation

    def __enter__(self) -> BlockingClient:
        self.join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.check()
        call = self._background.call(work)
        try:
            if not self._background.hand_over(call):
                self.check()  # it has been closed in between
                raise RuntimeError("the thread of this client has ended")
            call.wait()
        except BaseException:
            if not call.done:
                # Ctrl-C comes at any moment, also just before or after the call was handed over. What was being sent is
                # given up, and the coroutine has to let go before another one begins.
                self._background.cancel(call)
                idle = self._background.call(self.client.idle)
                if self._background.hand_over(idle):
                    idle.wait(GIVE_UP_SECONDS)
            raise
        return call.result()

    def check(self) -> None:
        """Whether calls can be made: `RuntimeError` in a forked child, `SessionClosed` when it is closed."""
        self._home.check()
        if self._closed is not None:
            raise SessionClosed(self._closed)

    def join(self) -> None:
        self._run(lambda: self.client.join())

    def offer(
        self,
        specs: Sequence[TensorSpec],
        values: Values,
        *,
        whole: bool = False,
        aliases: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """`values` is called in the loop's thread, while the caller waits."""
        self._run(lambda: self.client.offer(specs, values, whole=whole, aliases=aliases))

    def withdraw(self) -> None:
        """Nothing happens when no call can be made any more."""
        if self._closed is None and self._home.here:
            self._run(lambda: self.client.withdraw())

    def pull(self) -> Pulled | None:
        return self._run(lambda: self.client.pull())

    def push(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors,
        metrics: Mapping[str, float] | None = None,
        times: StepTimes | None = None,
    ) -> Outcome:
        return self._run(lambda: self.client.push(kind, samples, tensors, metrics, times))

    def pushpull(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors,
        metrics: Mapping[str, float] | None = None,
        times: StepTimes | None = None,
    ) -> tuple[Outcome, Pulled | None]:
        return self._run(lambda: self.client.pushpull(kind, samples, tensors, metrics, times))

    def skip(self, times: StepTimes | None = None) -> tuple[Outcome, Pulled | None]:
        return self._run(lambda: self.client.skip(times))

    def settle(self) -> Outcome | None:
        return self._run(lambda: self.client.settle())

    def barrier(self, name: str, parties: int = 1) -> None:
        self._run(lambda: self.client.barrier(name, parties))

    def status(self) -> dict[str, Any]:
        return self._run(lambda: self.client.status())

    def leave(self) -> None:
        self._run(lambda: self.client.leave())

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
