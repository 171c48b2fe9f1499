"""The tasks that run beside the requests, made here and nowhere else, and watched.

The one rule: none of them dies in silence. One that ends with an exception ends the server, in order.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """A fault of our own that ends the server.

    `state_is_sound`: the state is still what was decided and acknowledged, so it is saved before the end; otherwise
    nothing is written, and the newest checkpoint is what the next start goes on from.
    """

    what: str
    error: BaseException
    state_is_sound: bool

    def __str__(self) -> str:
        return f"{self.what}: {type(self.error).__name__}: {self.error}"


class Background:
    """`on_failure` gets the name of a task and what it raised."""

    def __init__(self, on_failure: Callable[[str, BaseException], None]) -> None:
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self) -> None:
        """Cancel what still runs, and wait for its end."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_failure(task.get_name(), error)
