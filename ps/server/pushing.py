"""The life of a push, from top to bottom.

1. judged: its name is looked at, before its tensors are: a client of an old epoch is told so instead of being told
   that its tensors are unknown, and a repeat gets the answer that it was given first (`Pushing.push`);
2. inspected: its tensors are the group's, finite, and not those of another rank (`Pushing._inspect`);
3. asked: its body is kept, and the machine decides: apply on arrival, hold in the round, drop, refuse (`Runtime.ask`,
   `leeway.ps.core`);
4. applied: with the effect `Apply` the bodies of a step's updates are taken, and the step is queued behind those before
   it (`Pushing.apply`), and computed beside the loop (`_compute`);
5. published: its version is there, and seen by readers when the event has its turn (`Pushing._stepped`,
   `Publishing.finished`, `Publishing.publish`);
6. answered: with that event the machine says what became of the push, and whoever asked gets it (`Runtime._answer`).
   A push that is held, dropped or refused is answered at 3.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.pushes import UpdateKind
from leeway.ps.arithmetic import admission
from leeway.ps.arithmetic.guards import GuardMode, begins_with_zeros, guard, same_values
from leeway.ps.arithmetic.norms import norm
from leeway.ps.arithmetic.parameters import Update
from leeway.ps.core.deduplication import Fresh
from leeway.ps.server.applier import INLINE_BYTES
from leeway.ps.watching.same_updates import SameUpdates

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from leeway.protocol.frames import Frame
    from leeway.protocol.pushes import Push
    from leeway.ps.arithmetic.guards import Inspected
    from leeway.ps.arithmetic.parameters import Parameters, Step
    from leeway.ps.core.effects import Apply
    from leeway.ps.core.machine import Machine
    from leeway.ps.server.asking import Outcome
    from leeway.ps.server.bodies import Bodies
    from leeway.ps.server.publishing import Publishing
    from leeway.ps.server.tuning import Tuning
    from leeway.ps.watching.listeners import Listeners
    from leeway.ps.watching.observer import Observer

# How often a norm is measured that no step needs. It costs one pass over the gradient (100 MiB: 4 to 9 ms).
NORM_SECONDS = 1.0


class Pushing:
    """`ask` hands a request to the machine and waits for what comes of it."""

    def __init__(
        self,
        machine: Machine,
        parameters: Mapping[str, Parameters],
        bodies: Bodies,
        publishing: Publishing,
        observer: Observer,
        listeners: Listeners,
        *,
        guard_mode: GuardMode,
        tuning: Tuning,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        ask: Callable[[Push, Frame, float | None], Awaitable[Outcome]],
    ) -> None:
        self._machine = machine
        self._parameters = parameters
        self._bodies = bodies
        self._publishing = publishing
        self._observer = observer
        self._listeners = listeners
        self._guard_mode = guard_mode
        self._tuning = tuning
        self._loop = loop
        self._clock = clock
        self._ask = ask
        self._same: defaultdict[str, SameUpdates] = defaultdict(SameUpdates)
        self._norm_due: defaultdict[str, float] = defaultdict(lambda: -math.inf)

    async def push(self, push: Push, frame: Frame) -> Outcome:
        """Raises `WireError` for tensors that are refused."""
        if isinstance(self._machine.judge(push), Fresh) and push.kind is not UpdateKind.SKIP:
            its_norm = await self._inspect(push, frame)
            await self._tuning.first_update(push.group, push.kind)
            return await self._ask(push, frame, its_norm)
        return await self._ask(push, frame, None)

    async def _inspect(self, push: Push, frame: Frame) -> float | None:
        """Returns the norm of the update, where its group asks for that."""
        admission.check(self._parameters[push.group].versions.current.layout, frame, push.values)
        matters = self._machine.groups[push.group].norms.matter
        look = partial(_look, frame, self._guard_mode, push.values, measure_norm=matters)
        try:
            if frame.body.nbytes < INLINE_BYTES:
                found, its_norm = look()
            else:
                found, its_norm = await self._loop.run_in_executor(None, look)
        except WireError as error:
            with self._listeners.guard("observer"):
                self._observer.non_finite(push, error.facts["tensor"], refused=True)
            raise
        if found.culprit is not None:
            with self._listeners.guard("observer"):
                self._observer.non_finite(push, found.culprit, refused=False)
        await self._compare(push, frame, found)
        return its_norm

    async def _compare(self, push: Push, frame: Frame, found: Inspected) -> None:
        """Whether another rank has sent the same: by the numbers of both, then by the values where both are here.

        Where the other one is gone and all that is known of its values is zeros and a sum, nothing is said.
        """
        same = self._same[push.group]
        twin = same.look(push, found.elements, found.sums, found.begins, frame.body)
        if twin is None:
            return
        if twin.body is None:
            the_same = not begins_with_zeros(frame)
        else:
            the_same = await self._loop.run_in_executor(None, same_values, frame, twin.body)
        if not the_same:
            return
        if same.tell():
            with self._listeners.guard("observer"):
                self._observer.same_updates(push, twin.rank, certain=twin.body is not None)

    def apply(self, apply: Apply) -> None:
        """The machine has decided on a step."""
        updates = [
            Update.of(apply.kind, each.samples, self._bodies.take(each.bodies), each.rank)
            for each in apply.contributions
        ]
        update_bytes = [sum(frame.body.nbytes for frame in update.frames) for update in updates]
        measure_norm = self._norm_is_due(apply.group)
        work = partial(_compute, self._parameters[apply.group], apply, updates, measure_norm=measure_norm)
        done = partial(self._stepped, apply, update_bytes)
        self._publishing.make(apply.group, apply.number, work, sum(update_bytes), done=done, apply=apply)

    def _norm_is_due(self, group: str) -> bool:
        now = self._clock()
        due = now >= self._norm_due[group]
        if due:
            self._norm_due[group] = now + NORM_SECONDS
        return due

    def _stepped(self, apply: Apply, update_bytes: Sequence[int], computed: tuple[Step, float]) -> None:
        """Back on the loop."""
        step, seconds = computed
        with self._listeners.guard("observer"):
            self._observer.stepped(apply, step, update_bytes, seconds)
        self._publishing.finished(apply.group, step.snapshot)


def _look(
    frame: Frame, mode: GuardMode, values: Sequence[str], *, measure_norm: bool
) -> tuple[Inspected, float | None]:
    return guard(frame, mode, values), norm(frame, values) if measure_norm else None


def _compute(parameters: Parameters, apply: Apply, updates: list[Update], *, measure_norm: bool) -> tuple[Step, float]:
    """The step, and the seconds that it took. On the applier's thread, or on the loop where that is quicker."""
    begin = time.perf_counter()
    step = parameters.step(
        apply.number,
        updates,
        aggregated=apply.aggregated,
        live_workers=apply.live,
        measure_norm=measure_norm,
    )
    # Whoever waits for this memory (a next body) need not wait for the job's last reference to fall.
    updates.clear()
    return step, time.perf_counter() - begin
