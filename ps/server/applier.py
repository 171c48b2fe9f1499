"""The arithmetic of one group, one job after another, beside the event loop.

The one rule: jobs run in the order in which they were submitted, one at a time, and each result is taken back on the
loop before the next job starts. So versions come out in the order of their numbers, and a job of the checkpoint sees
exactly what was decided before it.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

T = TypeVar("T")

# Below this a step takes less time than the hop into a thread and back (100 us, measured), so it runs on the loop.
INLINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """`work` computes, on the applier thread or inline; `done` takes its result, on the loop.

    `nbytes`: how much it touches. `makes_version`: it waits until a version can be written.
    """

    work: Callable[[], Any]
    done: Callable[[Any], None]
    nbytes: int
    makes_version: bool = True


class Applier:
    """`has_room`: whether a version can be written now. `on_stall`: called when a job has to wait for that.

    `on_failure` gets what a job raised: a job that fails is our own bug or a lack of memory, and the versions that
    were decided can no longer be made.
    """

    def __init__(
        self,
        group: str,
        loop: asyncio.AbstractEventLoop,
        *,
        has_room: Callable[[], bool],
        on_stall: Callable[[], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._has_room = has_room
        self._on_stall = on_stall
        self._on_failure = on_failure
        self._jobs: deque[Job] = deque()
        self._busy = False
        self._failed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"applier-{group}")

    @property
    def idle(self) -> bool:
        return not self._busy and not self._jobs

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        self.go_on()

    def result_of(self, work: Callable[[], T], nbytes: int) -> asyncio.Future[T]:
        """Submit work that makes no version. Its result is for whoever still waits for it: the asker may be gone."""
        result: asyncio.Future[T] = self._loop.create_future()

        def done(value: T) -> None:
            if not result.done():
                result.set_result(value)

        self.submit(Job(work, done, nbytes, makes_version=False))
        return result

    def go_on(self) -> None:
        """Start the next job if there is one and it can run: after a submit, a result, or memory set free."""
        while self._jobs and not self._busy and not self._failed:
            job = self._jobs[0]
            if job.makes_version and not self._has_room():
                self._on_stall()
                return
            self._jobs.popleft()
            self._busy = True
            if job.nbytes < INLINE_BYTES:
                try:
                    result = job.work()
                except BaseException as error:
                    self._fail(error)
                    return
                self._take(job, result)
            else:
                self._thread.submit(self._run, job)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> None:
        try:
            result = job.work()
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._fail, error)
        else:
            self._loop.call_soon_threadsafe(self._take_and_go_on, job, result)

    def _take(self, job: Job, result: Any) -> None:
        self._busy = False
        job.done(result)

    def _take_and_go_on(self, job: Job, result: Any) -> None:
        self._take(job, result)
        self.go_on()

    def _fail(self, error: BaseException) -> None:
        self._failed = True
        self._on_failure(error)
