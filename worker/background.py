"""An event loop in a thread of its own, and the calls that other threads hand to it and wait for.

The one rule: whoever waits is told. A call ends with what its coroutine gives or raises, with its cancellation, or when
the loop ends; never is there a thread that waits for a loop which is no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from leeway.errors import SessionClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

# How often it is looked whether the loop has ended; a goodbye takes a few of them.
LOOK_SECONDS = 0.001

# For the thread of a loop that has ended.
LAST_SECONDS = 1.0


class Call(Generic[T]):
    """A coroutine function that is handed to the loop, and what came of it.

    `begin`, `cancel` and `end` run in the loop's thread, in the order they were asked for.

    The waiting thread may be interrupted between any two of its instructions, also within a `with` block's own: a lock
    that both threads take and let go of could stay taken for ever, and the loop would wait for it. So there is one
    lock for each call, which the loop opens once and never takes.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]], waiting: set[Call[Any]]) -> None:
        self._work = work
        self._waiting = waiting
        self._closed = threading.Lock()
        self._closed.acquire()
        self._task: asyncio.Task[None] | None = None
        self._result: T | None = None
        self._error: BaseException | None = None
        self._why_cancelled: BaseException | None = None
        self.done = False

    def begin(self) -> None:
        if not self.done:
            self._task = asyncio.get_running_loop().create_task(self._carry())
            self._task.add_done_callback(self._ended)

    def cancel(self, why: BaseException | None = None) -> None:
        """`why`: what the waiting thread is told; by default that it was cancelled."""
        self._why_cancelled = why or CancelledError()
        if self._task is None:
            self.end(self._why_cancelled)
        else:
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
        self.end((self._why_cancelled or CancelledError()) if task.cancelled() else self._error)

    def end(self, error: BaseException | None) -> None:
        """Let the thread that waits go on."""
        if not self.done:
            self._error = error
            self.done = True
            self._waiting.discard(self)
            self._closed.release()

    def wait(self, seconds: float = -1.0) -> bool:
        """Whether it has ended; without `seconds`, when it has."""
        return self._closed.acquire(timeout=seconds)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class Background:
    """The loop and its thread. `goodbye`: the last that it does.

    It does not refer to whoever hands calls to it: that one would never be let go of, the thread refers to this.
    """

    def __init__(self, goodbye: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # Not uvloop's: that one ends every child that the user's process forks with SIGSEGV, and here it is no faster.
        self.loop = asyncio.new_event_loop()
        self._goodbye = goodbye
        self._ending: asyncio.Task[None] | None = None
        self._why: str | None = None  # it ends, or has ended
        self._ended = False
        # Those that somebody waits for. A call is in it before it is handed over, and until its end.
        self._waiting: set[Call[Any]] = set()
        # A daemon: an exit that forgets `close` is not held up before `atexit` has its turn.
        self.thread = threading.Thread(target=self._serve, name="leeway", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            with contextlib.suppress(RuntimeError):  # stopped once more
                self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            # Nothing can be handed over any more, and what has been is in here.
            for call in list(self._waiting):
                call.end(SessionClosed(self._why or "the thread of this client has ended"))
            self._ended = True

    def hand_over(self, call: Call[Any]) -> bool:
        """Have it begin. False: the loop has ended."""
        self._waiting.add(call)
        return self._tell(self._begin, call)

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Call[T]:
        return Call(work, self._waiting)

    def cancel(self, call: Call[Any]) -> bool:
        """Have it end. False: the loop has ended."""
        return self._tell(call.cancel)

    def end(self, why: str) -> None:
        """Begin to end, from any thread at any moment: calls under way are told `why`, then it is said goodbye. Waits
        for nothing, and can be called again."""
        if self.thread.ident is None:  # it was never started, and its loop is only to be let go of
            self.loop.close()
        self._tell(self._end, why)

    def join(self, seconds: float) -> None:
        """Wait for the end, `seconds` at most, and then, or when this is interrupted, make one."""
        if self.thread.ident is None:
            return
        try:
            self._await_end(seconds)
        finally:
            self._tell(self.loop.stop)
            self._await_end(seconds)
            # Only the thread's last instruction is missing.
            self.thread.join(LAST_SECONDS)

    def _await_end(self, seconds: float) -> None:
        # A look now and then, for no lock is in this: `Thread.join` takes one and lets go of it, and a signal handler
        # that comes in between and joins too would wait for what it has interrupted.
        until = time.monotonic() + seconds
        while not self._ended and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)

    def _begin(self, call: Call[Any]) -> None:
        if self._why is None:
            call.begin()
        else:
            call.cancel(SessionClosed(self._why))

    def _end(self, why: str) -> None:
        if self._ending is None:
            self._why = why
            for call in list(self._waiting):
                call.cancel(SessionClosed(why))
            self._ending = asyncio.get_running_loop().create_task(self._leave())

    async def _leave(self) -> None:
        try:
            await self._goodbye()
        finally:
            self.loop.stop()

    def _tell(self, callback: Callable[..., object], *arguments: Any) -> bool:
        """Whether the loop can be told anything."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self.loop.call_soon_threadsafe(callback, *arguments)
            return True
        return False
