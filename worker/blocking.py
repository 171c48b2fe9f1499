"""The same client for a plain training loop: an event loop in a background thread, and calls that wait for it.

The one rule: nothing is decided or kept here. Each method hands one coroutine of `worker.client.Client` to the
loop and returns what it returns. Heartbeats go on in the loop's thread while the caller computes; torch lets go
of the interpreter lock meanwhile.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from concurrent.futures import CancelledError, wait
from typing import TYPE_CHECKING, Any, TypeVar

from leeway.worker.client import Client

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
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


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class BlockingClient:
    """`Client` without `await`; the arguments and what is raised are the same.

    For one thread. An exception that is raised in it while a call waits (Ctrl-C) cancels that call, as
    cancelling the coroutine would: the client can be used afterwards. Closed at the end of a `with` block, or
    at the interpreter's exit.
    """

    def __init__(self, url: str, rank: str, **options: Any) -> None:
        self.client = Client(url, rank, **options)
        self._loop: asyncio.AbstractEventLoop | None = _new_loop()
        self._process = os.getpid()
        # A daemon: an exit that forgets `close` is not held up before `atexit` has its turn.
        self._thread = threading.Thread(target=self._serve, args=(self._loop,), name="leeway", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

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

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            work.close()
            raise ValueError("this client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                # The future is done as soon as it is cancelled; the coroutine has still to let go.
                wait([asyncio.run_coroutine_threadsafe(self.client.idle(), self._loop)], GIVE_UP_SECONDS)
            raise

    def join(self) -> None:
        self._run(self.client.join())

    def offer(self, specs: Sequence[TensorSpec], values: Values) -> None:
        """`values` is called in the loop's thread, while the caller waits."""
        self._run(self.client.offer(specs, values))

    def pull(self) -> Pulled | None:
        return self._run(self.client.pull())

    def push(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors,
        metrics: Mapping[str, float] | None = None,
        times: StepTimes | None = None,
    ) -> Outcome:
        return self._run(self.client.push(kind, samples, tensors, metrics, times))

    def pushpull(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors,
        metrics: Mapping[str, float] | None = None,
        times: StepTimes | None = None,
    ) -> tuple[Outcome, Pulled | None]:
        return self._run(self.client.pushpull(kind, samples, tensors, metrics, times))

    def skip(self, times: StepTimes | None = None) -> tuple[Outcome, Pulled | None]:
        return self._run(self.client.skip(times))

    def settle(self) -> Outcome | None:
        return self._run(self.client.settle())

    def barrier(self, name: str, parties: int = 1) -> None:
        self._run(self.client.barrier(name, parties))

    def status(self) -> dict[str, Any]:
        return self._run(self.client.status())

    def leave(self) -> None:
        self._run(self.client.leave())

    def close(self) -> None:
        """Leave, close the connections and end the thread, in a few seconds at most. Can be called again."""
        atexit.unregister(self.close)
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        if os.getpid() != self._process:
            # A forked child has the object and neither the thread nor the right to end this life.
            return
        closing = asyncio.run_coroutine_threadsafe(self.client.close(), loop)
        try:
            with contextlib.suppress(TimeoutError, CancelledError):
                closing.result(2 * GIVE_UP_SECONDS)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join(GIVE_UP_SECONDS)
