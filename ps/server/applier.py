"""The arithmetic of one group, one job after another, beside the event loop.

The one rule: jobs run in the order in which they were submitted, one at a time, and each result is taken back on the
loop before the next job starts. So versions come out in the order of their numbers, and a job of the checkpoint sees
exactly what was decided before it. A job that fails is taken back like any other, and the next one starts.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

T = TypeVar("T")

# Below this a step takes less time than the hop into a thread and back (100 us, measured), so it runs on the loop.
INLINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """`work` computes, on the applier thread or inline; `done` takes its result, `failed` what it raised, on the loop.

    `nbytes`: how much it touches. `makes_version`: it waits until a version can be written.
    """

    work: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]
    nbytes: int
    makes_version: bool = True


class Applier:
    """`has_room`: whether a version can be written now. `on_stall`: called when a job has to wait for that.

    `on_failure` gets what taking a result raised, which is a fault of ours: after that no job is started any more.
    """

    def __init__(
        self,
        group: str,
        loop: asyncio.AbstractEventLoop,
        *,
        has_room: Callable[[], bool],
        on_stall: Callable[[], None],
        on_failure: Callable[[Exception], None],
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
        """Submit work that makes no version. Its result, or what it raised, is for whoever still waits for it: the
        asker may be gone.
        """
        result: asyncio.Future[T] = self._loop.create_future()

        def done(value: T) -> None:
            if not result.done():
                result.set_result(value)

        def failed(error: Exception) -> None:
            if not result.done():
                result.set_exception(error)

        self.submit(Job(work, done, failed, nbytes, makes_version=False))
        return result

    def go_on(self) -> None:
        """Start the next job if there is one and it can run: after a submit, a result, or memory set free."""
        try:
            self._start_jobs()
        except Exception as error:
            self._fail(error)

    def _start_jobs(self) -> None:
        while self._jobs and not self._busy and not self._failed:
            job = self._jobs[0]
            if job.makes_version and not self._has_room():
                self._on_stall()
                return
            self._jobs.popleft()
            self._busy = True
            if job.nbytes < INLINE_BYTES:
                self._take(_worked(job))
            else:
                self._thread.submit(self._run, job)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> None:
        self._loop.call_soon_threadsafe(self._take_and_go_on, _worked(job))

    def _take(self, take: Callable[[], None]) -> None:
        self._busy = False
        take()

    def _take_and_go_on(self, take: Callable[[], None]) -> None:
        try:
            self._take(take)
        except Exception as error:
            self._fail(error)
        self.go_on()

    def _fail(self, error: Exception) -> None:
        self._failed = True
        self._on_failure(error)


def _worked(job: Job) -> Callable[[], None]:
    """Do the job's work, and return how its result or its failure is taken."""
    try:
        return partial(job.done, job.work())
    except Exception as error:
        return partial(job.failed, error)
