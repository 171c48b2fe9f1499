"""The same client for a plain training loop: an event loop in a background thread, and calls that wait for it.

The one rule: nothing is decided or kept here. Each method hands one coroutine of `worker.client.Client` to the
loop and returns what it returns. Heartbeats go on in the loop's thread while the caller computes; torch lets go
of the interpreter lock meanwhile.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
import weakref
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from leeway.worker.client import Client
from leeway.worker.forks import Home

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from types import TracebackType

    from leeway.protocol.requests import UpdateKind
    from leeway.protocol.tensors import TensorSpec
    from leeway.protocol.times import StepTimes
    from leeway.worker.client import Values
    from leeway.worker.exchange import Tensors
    from leeway.worker.receiving import Pulled
    from leeway.worker.session import Outcome, Session

T = TypeVar("T")

# After Ctrl-C, what was being sent is given up; this is for its connection to be closed, no more.
GIVE_UP_SECONDS = 5.0


class _Call(Generic[T]):
    """A coroutine function that is handed to the loop, and what came of it.

    `begin` and `cancel` run in the loop, in the order they were asked for.

    The waiting thread may be interrupted between any two of its instructions, also within a `with` block's own: a lock
    that both threads take and let go of could stay taken for ever, and the loop would wait for it. So there is one
    lock for each call, which the loop opens once and never takes.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._closed = threading.Lock()
        self._closed.acquire()
        self._task: asyncio.Task[None] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self.done = False

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._carry())
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _carry(self) -> None:
        try:
            self._result = await self._work()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # KeyboardInterrupt and SystemExit too: they would end the loop, and every later call would wait for it.
            self._error = error

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            self._error = CancelledError()
        self.done = True
        self._closed.release()

    def wait(self, seconds: float = -1.0) -> bool:
        """Whether it has ended; without `seconds`, when it has."""
        return self._closed.acquire(timeout=seconds)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


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
        # Not uvloop's: that one ends every child that the user's process forks with SIGSEGV, and here it is no faster.
        self._loop = asyncio.new_event_loop()
        # A daemon: an exit that forgets `close` is not held up before `atexit` has its turn. It must not refer to this
        # object, which would never be let go of then.
        self._thread = threading.Thread(target=self._serve, args=(self._loop,), name="leeway", daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, _abandon, self.client, self._loop, self._thread, self._home)
        self._finalizer.atexit = False
        _OPEN.add(self)

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    @property
    def ended(self) -> bool:
        """Whether it holds its rank no more, as far as this process knows."""
        return self._closed is not None or not self._home.here or self.session.ending is not None

    @property
    def session(self) -> Session:
        """To be read between calls: life, clock, grant, index, count, policy, ending."""
        return self.client.session

    def __enter__(self) -> BlockingClient:
        self.join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        self.check()
        call = _Call(work)
        try:
            self._loop.call_soon_threadsafe(call.begin)
            call.wait()
        except BaseException:
            if not call.done:
                # Ctrl-C comes at any moment, also just before or after the call was handed over. What was being sent is
                # given up, and the coroutine has to let go before another one begins.
                idle = _Call(self.client.idle)
                self._loop.call_soon_threadsafe(call.cancel)
                self._loop.call_soon_threadsafe(idle.begin)
                idle.wait(GIVE_UP_SECONDS)
            raise
        return call.result()

    def check(self) -> None:
        """Whether calls can be made: `RuntimeError` in a forked child, `ValueError` when it is closed."""
        self._home.check()
        if self._closed is not None:
            raise ValueError(self._closed)

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
        """Leave, close the connections and end the thread, in a few seconds at most. Can be called again.

        `why`: what later calls are told. In a forked child nothing happens: all this is its parent's.
        """
        if self._closed is not None or not self._home.here:
            return
        self._closed = why
        self._finalizer.detach()
        loop = self._loop
        closing = _Call(self.client.close)
        try:
            loop.call_soon_threadsafe(closing.begin)
            if closing.wait(2 * GIVE_UP_SECONDS):
                with contextlib.suppress(CancelledError):
                    closing.result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(GIVE_UP_SECONDS)


_OPEN: weakref.WeakSet[BlockingClient] = weakref.WeakSet()
_LEAVING: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def _abandon(client: Client, loop: asyncio.AbstractEventLoop, thread: threading.Thread, home: Home) -> None:
    """Nobody refers to the blocking client any more. This runs in any thread at any moment, so it waits for nothing."""
    if not home.here:
        return
    _LEAVING.add(thread)

    async def leave() -> None:
        try:
            await client.close()
        finally:
            loop.stop()

    # The thread may have ended already, in a test that ended it.
    with contextlib.suppress(RuntimeError):
        asyncio.run_coroutine_threadsafe(leave(), loop)


@atexit.register
def _close_all() -> None:
    for client in list(_OPEN):
        client.close()
    for thread in list(_LEAVING):
        thread.join(GIVE_UP_SECONDS)
