"""A part of what a session trains: one module, in one group of the server.

The one rule: between calls the module holds exactly one pulled version, plus whatever the loop did to it since; calls
about one part touch no other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from leeway.worker.modules.elements import overlap
from leeway.worker.standing import Begun, Standing
from leeway.worker.step_times import step_times

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.pushes import UpdateKind
    from leeway.protocol.times import StepTimes
    from leeway.transport.channel import Tensors, Traffic
    from leeway.worker.blocking import BlockingGroup
    from leeway.worker.client import Client
    from leeway.worker.modules.elements import Elements
    from leeway.worker.receiving import Pulled
    from leeway.worker.samples import Samples
    from leeway.worker.session.conversation import Conversation
    from leeway.worker.session.states import Ending, Outcome
    from leeway.worker.torch_bridge import ModelBridge
    from leeway.worker.watching.reporting import Reporting


log = structlog.get_logger("worker")


class LastLoad:
    """When a module last got values, of all parts of a session: from then on the loop computes."""

    def __init__(self) -> None:
        self.at = time.perf_counter()


@dataclass(frozen=True, slots=True)
class Update:
    """Of one iteration of a part, collected and not sent. `began`, `collected`: moments, in seconds."""

    kind: UpdateKind
    tensors: Tensors
    began: float
    collected: float


class Part:
    """To be read: where it stands. What is done goes through its session, which is for one thread."""

    def __init__(
        self,
        name: str,
        client: BlockingGroup,
        samples: Samples,
        figures: dict[str, float],
        last_load: LastLoad,
        reporting: Reporting | None = None,
    ) -> None:
        self.name = name
        self._client = client
        self._samples = samples
        self._figures = figures
        self._last_load = last_load
        self._reporting = reporting
        self._bridge: ModelBridge | None = None
        self._standing = Standing()

    # What there is to know.

    @property
    def clock(self) -> int:
        """The index of the iteration under way."""
        return self.conversation.clock

    @property
    def version(self) -> int:
        """The number of the version that the module holds; 0 before the first pull."""
        return self._standing.version

    @property
    def outcome(self) -> Outcome | None:
        """What became of the last update, or None before the first."""
        return self._standing.outcome

    @property
    def times(self) -> StepTimes:
        """Of the last `step` or `skip`; all 0 before the first."""
        return self._standing.times

    @property
    def lag(self) -> int:
        """Iterations ahead of the slowest live worker, at the last pull."""
        grant = self.conversation.grant
        return grant.lag if grant else 0

    @property
    def staleness(self) -> int | None:
        """Versions that others made between the last update's pull and its application; None when not told."""
        return self.outcome.staleness if self.outcome else None

    @property
    def index(self) -> int:
        """This worker's place among the `count` live ones, from 0."""
        return self.conversation.index

    @property
    def count(self) -> int:
        """How many workers were live at the last pull, at least 1."""
        return self.conversation.count

    @property
    def policy(self) -> str:
        """The group's policy at the last join."""
        return self.conversation.policy

    @property
    def until(self) -> int | None:
        """The clock at which it is complete, where it has one."""
        return self.conversation.until

    @property
    def finished(self) -> bool:
        """Whether it is complete for this worker: there is nothing more to compute."""
        return self.ending is not None

    @property
    def ending(self) -> Ending | None:
        """Why it is."""
        return self.conversation.ending

    @property
    def ending_detail(self) -> str:
        """The same in words; empty before the end, and where this worker has left by itself."""
        return self.conversation.ending_detail

    # For the session.

    @property
    def client(self) -> Client:
        """The worker's, of all its groups."""
        return self._client.worker.client

    @property
    def conversation(self) -> Conversation:
        return self._client.conversation

    @property
    def bridge(self) -> ModelBridge:
        """Raises `ValueError` when there is no module yet."""
        self._client.worker.check()
        if self._bridge is None:
            raise ValueError("no model is attached; call attach(model) first")
        return self._bridge

    @property
    def attached(self) -> bool:
        return self._bridge is not None

    @property
    def interrupted(self) -> bool:
        """Whether a step has begun that was not seen to its end."""
        return self._standing.begun is Begun.STEP

    def optimizer(self) -> dict[str, Any]:
        return self._client.optimizer()

    def set_optimizer(self, changes: Mapping[str, Any]) -> None:
        self._client.set_optimizer(changes)

    def offer(self, bridge: ModelBridge, *, whole: bool) -> None:
        """Offer the module's values as the initial ones."""
        if bridge.on_gpu:
            self._client.client.receive_into(bridge.allocate)
        self._client.offer(bridge.specs, bridge.values, whole=whole, aliases=bridge.aliases)

    def attach(self, bridge: ModelBridge) -> None:
        """Take the server's values into the module: from here on it is what this part trains."""
        self._loaded(bridge, self._client.pull())
        self._bridge = bridge

    def detach(self) -> None:
        """Train nothing, and offer nothing any more, if a call can still be made."""
        self._bridge = None
        if not self._client.worker.ended:
            self._client.withdraw()

    def pull(self) -> None:
        bridge = self.bridge
        bridge.check()
        if self.interrupted and self._complete(time.perf_counter()):
            return
        if self.finished:
            raise ValueError(f"there is nothing more to pull: {self.ending}; the module keeps what it holds")
        self._begin(Begun.PULL)
        self._loaded(bridge, self._client.pull())

    def collect(self, kind: UpdateKind) -> Update | Outcome:
        """What this iteration's update carries; nothing is sent. If one was begun before: what became of it, now that
        it is complete."""
        bridge = self.bridge
        began = time.perf_counter()
        if completed := self._ready(bridge, began):
            return completed
        tensors = bridge.update(kind, first=self.index == 0, alone=self.count == 1)
        return Update(kind, tensors, began, time.perf_counter())

    def push(
        self, update: Update, samples: int, metrics: Mapping[str, float], *, keep_gradients: bool = False
    ) -> Outcome:
        """Push what was collected, and pull."""
        before = self._traffic()
        if self._reporting:
            self._reporting.begun(self.conversation.life, samples, metrics)
        self._begin(Begun.STEP)
        outcome, pulled = self._client.pushpull(update.kind, samples, update.tensors, metrics, self._times_to_tell())
        self._samples.taken(self.name)
        self._figures.clear()
        return self._stepped(update.began, update.collected, before, outcome, pulled, keep_gradients=keep_gradients)

    def skip(self) -> Outcome:
        bridge = self.bridge
        bridge.check()
        began = time.perf_counter()
        if completed := self._ready(bridge, began):
            return completed
        before = self._traffic()
        if self._reporting:
            self._reporting.begun(self.conversation.life)
        self._begin(Begun.STEP)
        outcome, pulled = self._client.skip(self._times_to_tell())
        return self._stepped(began, began, before, outcome, pulled)

    # How it is done.

    def _traffic(self) -> Traffic:
        return self.client.traffic.copy()

    def _ready(self, bridge: ModelBridge, began: float) -> Outcome | None:
        """Whether an update of this iteration can be pushed. If not, what became of one that was begun before: it is
        complete now. Raises `ValueError`."""
        if self._standing.begun is not None:
            bridge.check()
            if self._standing.begun is Begun.STEP and (completed := self._complete(began)):
                return completed
        if self.finished:
            raise self._is_finished()
        if self._standing.begun is Begun.PULL:
            raise ValueError(
                "a pull was interrupted, and the module may hold parts of two versions; call pull() again, then compute"
            )
        return None

    def _is_finished(self) -> ValueError:
        return ValueError(f"there is nothing more to push: {self.ending}; loop while not session.finished")

    def _times_to_tell(self) -> StepTimes | None:
        """Where the time of the iteration before went: the server's history is to have it."""
        return self.times if self.outcome else None

    def _begin(self, call: Begun) -> None:
        self._standing = replace(self._standing, begun=call)

    def _complete(self, began: float) -> Outcome | None:
        """See an interrupted step to its end. None: it had not begun for the server, this one can."""
        before = self._traffic()
        outcome = self._client.settle()
        if outcome is None or outcome is self.outcome or self.conversation.grant is self._standing.grant:
            return None
        return self._stepped(began, time.perf_counter(), before, outcome, self._client.pull())

    def _stepped(
        self,
        began: float,
        collected: float,
        before: Traffic,
        outcome: Outcome,
        pulled: Pulled | None,
        *,
        keep_gradients: bool = False,
    ) -> Outcome:
        times = step_times(
            outcome.clock,
            loaded=self._last_load.at,
            computed=began,
            collected=collected,
            received=time.perf_counter(),
            before=before,
            after=self._traffic(),
        )
        self._loaded(self.bridge, pulled, outcome, times, keep_gradients=keep_gradients)
        if self._reporting:
            self._reporting.stepped(self.client, self.conversation, outcome, self.times)
        return outcome

    def _loaded(
        self,
        bridge: ModelBridge,
        pulled: Pulled | None,
        outcome: Outcome | None = None,
        times: StepTimes | None = None,
        *,
        keep_gradients: bool = False,
    ) -> None:
        """Have the module hold what was pulled; None: there is nothing more. `outcome`: of the step that this is the
        end of."""
        began = time.perf_counter()
        if pulled is None:
            named = {"part": self.name} if len(self.client.groups) > 1 else {}
            log.info("nothing more to compute", **named, ending=str(self.ending), detail=self.ending_detail)
        else:
            bridge.load(pulled.frame)
        if outcome is not None and not keep_gradients:
            # Before the step counts: whoever is interrupted in here does all of it again.
            bridge.forget_gradients()
        before, now = self._standing, time.perf_counter()
        self._last_load.at = now
        self._standing = Standing(
            pulled.grant if pulled else before.grant,
            pulled.grant.version.number if pulled else before.version,
            outcome or before.outcome,
            replace(times, pull_seconds=times.pull_seconds + now - began) if times else before.times,
        )


def disjoint(parts: Mapping[str, ModelBridge]) -> None:
    """Raise `ValueError` where two parts have elements in common: what is pulled into one would change the other."""
    owners: dict[Elements, tuple[str, str]] = {}
    for part, bridge in parts.items():
        for name, memory in bridge.memories.items():
            other, its_name = owners.setdefault(memory, (part, name))
            if other != part:
                raise ValueError(f"{its_name} and {name} are the same tensor, {_REMEDY}")
    if pair := overlap({name: memory for memory, (_, name) in owners.items()}):
        raise ValueError(f"{pair[0]} and {pair[1]} have elements in common, {_REMEDY}")


_REMEDY = (
    "in two parts, and a tensor is trained in one of them: leave it out of the other, attach({...}, exclude={PART: [its"
    " name there]})"
)
