"""From a decided version to one that readers see: the work is queued, done beside the loop, and taken back on it.

The one rule: every version that was decided is published under its number. Where its arithmetic raises, the values
before it stand in for it, and all goes on.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from leeway.ps.arithmetic.optimizers import StateLost
from leeway.ps.core.events import Failed, Published
from leeway.ps.server.applier import Applier, Job

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from leeway.ps.arithmetic.parameters import Parameters
    from leeway.ps.arithmetic.versions import Snapshot
    from leeway.ps.core.effects import Apply
    from leeway.ps.core.events import Event
    from leeway.ps.server.readers import Readers
    from leeway.ps.watching.listeners import Listeners
    from leeway.ps.watching.observer import Observer


class Publishing:
    """`happen` takes the event that a version is there. `fail` gets a fault after which no state is sound, `lose` one
    after which the optimizer's state is lost and the values are sound.
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameters],
        readers: Readers,
        observer: Observer,
        listeners: Listeners,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        happen: Callable[[Event], None],
        fail: Callable[[str, BaseException], None],
        lose: Callable[[str, BaseException], None],
    ) -> None:
        # How many versions have been published without the step that was to make them.
        self.failed_steps = 0
        self._parameters = parameters
        self._fail = fail
        self._readers = readers
        self._observer = observer
        self._listeners = listeners
        self._loop = loop
        self._clock = clock
        self._happen = happen
        self._lose = lose
        self._unpublished: dict[tuple[str, int], Snapshot] = {}
        self.appliers: dict[str, Applier] = {}
        for name in parameters:
            self.begin(name)

    def begin(self, group: str) -> None:
        """From here on steps of this group can be made."""
        self.appliers[group] = Applier(
            group,
            self._loop,
            has_room=partial(self._has_room, group),
            on_stall=partial(self._stalled, group),
            on_failure=partial(self._fail, "taking the result of a step"),
        )
        self._parameters[group].versions.on_released = partial(self._memory_freed, group)

    def close(self) -> None:
        """No step is made any more."""
        for applier in self.appliers.values():
            applier.close()

    def make(
        self,
        group: str,
        number: int,
        work: Callable[[], Any],
        nbytes: int,
        *,
        done: Callable[[Any], None] | None = None,
        apply: Apply | None = None,
    ) -> None:
        """Do the work that makes version `number`. `nbytes`: what it is made from.

        `done` takes the work's result, and calls `finished`; without it, the result is the version. `apply`: what was
        decided, where it is a step.
        """
        # The work touches the whole model, however small what comes in.
        model_bytes = self._parameters[group].versions.current.layout.nbytes
        failed = partial(self._failed, group, number, apply)
        self.appliers[group].submit(Job(work, done or partial(self.finished, group), failed, max(nbytes, model_bytes)))

    def finished(self, group: str, snapshot: Snapshot) -> None:
        """A version is there: it is published in its turn among the events."""
        with self._listeners.guard("observer"):
            self._observer.published(group, snapshot)
        self._unpublished[group, snapshot.number] = snapshot
        self._happen(Published(group, snapshot.number))

    def publish(self, event: Published | Failed) -> None:
        """Its turn has come. Not when it was made: replies decided before this event are about the version before."""
        snapshot = self._unpublished.pop((event.group, event.number))
        self._parameters[event.group].versions.publish(snapshot)

    def _failed(self, group: str, number: int, apply: Apply | None, error: Exception) -> None:
        """The arithmetic of a version raised: the values before it are published under its number."""
        self.failed_steps += 1
        with self._listeners.guard("observer"):
            self._observer.step_failed(group, number, apply, error)
        # Its frames hold the bodies and the half-made version.
        error.__traceback__ = None
        self._unpublished[group, number] = self._parameters[group].again(number)
        self._happen(Failed(group, number))
        if isinstance(error, StateLost):
            # The values are those before the step, the momentum is gone: that is saved, and somebody has to look at it.
            self._lose(f"the step to version {number} of group {group}", error)

    def _has_room(self, group: str) -> bool:
        return self._parameters[group].versions.room

    def _memory_freed(self, group: str) -> None:
        # Called from whichever thread lets go of a version last, at the end of the process too.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.appliers[group].go_on)

    def _stalled(self, group: str) -> None:
        self._readers.press(group, self._parameters[group].versions.current.number, self._clock())
