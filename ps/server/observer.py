"""What is told of the run: log lines, counts, and the state for `/v1/status` and `/metrics`.

The one rule: it only looks. Nothing here changes what is decided or when it is carried out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import structlog

from protocol.reasons import Reason
from protocol.replies import Granted, NotYet, Pushed, PushPulled, Refused
from protocol.requests import Pull, Push
from ps.core import describe
from ps.core.effects import Apply, Began, Ended, Finished, Parked, RoundClosed, RoundOpened, Switched
from ps.observability.logs import OnChange
from ps.observability.metrics import GroupView, WorkerState, WorkerView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocol.replies import Reply
    from protocol.requests import Request
    from ps.arithmetic.parameters import Parameters, Step
    from ps.core.effects import Effect
    from ps.core.machine import Machine
    from ps.observability.metrics import ServerMetrics


class Observer:
    def __init__(self, machine: Machine, parameters: Mapping[str, Parameters], metrics: ServerMetrics) -> None:
        self._machine = machine
        self._parameters = parameters
        self._metrics = metrics
        self._log = structlog.get_logger("ps")
        # Why a worker waits is told once per life and reason: under `sync` it changes twice in every round.
        self._new = OnChange()
        # The figures that each live worker reported with its last push.
        self._reported: dict[str, dict[str, float | None]] = {}

    def decided(self, effect: Effect) -> None:
        match effect:
            case Parked(_, who, reason, detail):
                if self._new((who, reason), True):
                    self._log.info("waits", who=who, reason=str(reason), detail=detail)
            case Began(rank, incarnation):
                self._metrics.joined()
                self._log.info("joined", rank=rank, incarnation=incarnation)
            case Ended(rank, incarnation, reason, detail):
                self._metrics.departed(reason)
                self._reported.pop(rank, None)
                log = self._log.info if reason is Reason.LEFT else self._log.warning
                log("ended", rank=rank, incarnation=incarnation, reason=str(reason), detail=detail)
            case RoundOpened(group, number, members):
                self._log.debug("round opens", group=group, round=number, members=members)
            case RoundClosed(group, number, contributors, samples):
                self._metrics.round_closed(group)
                self._log.debug("round closes", group=group, round=number, of=contributors, samples=samples)
            case Switched(group, mode, staleness, switch_point):
                self._log.info("switched", group=group, mode=mode, staleness=staleness, after=switch_point)
            case Finished():
                self._log.info("finished", until=self._machine.settings.until)
            case _:
                pass

    def answered(self, request: Request, reply: Reply, waited_for: Reason, seconds: float) -> None:
        """`seconds` from the request's arrival; `waited_for`: why it was parked last, `GRANTED` if it was not."""
        pushed = reply.pushed if isinstance(reply, PushPulled) else reply
        pulled = reply.pulled if isinstance(reply, PushPulled) else reply
        if isinstance(request, Push) and isinstance(pushed, Pushed) and pushed.reason is not Reason.REPEATED:
            self._metrics.pushed(request.group, pushed.disposition, pushed.reason)
            if request.metrics:
                # JSON has no NaN: a loss that has diverged is shown as null.
                shown = {name: value if math.isfinite(value) else None for name, value in request.metrics.items()}
                self._reported[request.life.rank] = shown
        if isinstance(reply, PushPulled) and isinstance(pulled, Refused):
            # Refusals that are the whole reply become problem documents and are counted with those.
            self._metrics.refused(pulled.error.code)
        if isinstance(pulled, (Granted, NotYet)) and isinstance(request, (Pull, Push)) and request.life:
            self._metrics.pull_answered(request.group, waited_for, seconds)

    def stepped(self, apply: Apply, made: Step, seconds: float) -> None:
        staleness = [apply.staleness] * len(apply.contributions)
        self._metrics.stepped(apply.group, seconds, staleness, made.gradient_norm)

    def non_finite(self, push: Push, tensor: str, *, refused: bool) -> None:
        self._metrics.non_finite(push.group)
        said = "non-finite update refused" if refused else "non-finite update let through"
        self._log.warning(said, rank=push.life.rank, clock=push.clock, tensor=tensor)

    def slow_reader_closed(self) -> None:
        self._metrics.slow_reader_closed()
        self._log.warning("slow reader closed", detail="it held an old version's memory for too long")

    def status(self, now: float) -> dict[str, Any]:
        told = describe.status(self._machine, now)
        for worker in told["workers"]:
            worker["reported"] = self._reported.get(worker["rank"], {})
        for name, group in told["groups"].items():
            one = self._parameters[name]
            group["live_versions"] = one.versions.live
            group["learning_rate"] = one.settings.learning_rate(one.steps)
        return told

    def views(self) -> list[GroupView]:
        """The state, for the metrics."""
        return [
            GroupView(
                name,
                group.published,
                self._parameters[name].versions.live,
                group.min_clock,
                [
                    WorkerView(
                        one.rank,
                        one.groups[name].clock,
                        one.groups[name].clock - group.min_clock,
                        WorkerState.WAITING if group.waiting.of(one) else WorkerState.COMPUTING,
                    )
                    for one in group.roster
                ],
            )
            for name, group in self._machine.groups.items()
        ]
