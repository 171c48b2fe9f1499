"""What a session's metrics are told of each step, of a script of one's own as of `ps-worker`.

The one rule: a step is told when the module holds what it has pulled; all there is to know of it stands in the session
then. What the session does not keep, the update's weight and figures, is remembered here from its push on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition
from leeway.worker.watching.metrics import SkipCause, WorkerMetrics
from leeway.worker.watching.serving import serve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.lives import Life
    from leeway.protocol.times import StepTimes
    from leeway.worker.blocking import BlockingClient
    from leeway.worker.client import Client
    from leeway.worker.pipeline.carried import Carried
    from leeway.worker.pipeline.iteration import Outcome as Iterated
    from leeway.worker.session.conversation import Conversation
    from leeway.worker.session.states import Outcome
    from leeway.worker.watching.serving import Place

log = structlog.get_logger("worker")


class Reporting:
    """The metrics of one worker, served at `url` until its client ends. `task`: what it trains.

    Raises `SettingError` when the address cannot be had.
    """

    def __init__(self, client: BlockingClient, task: str, place: Place) -> None:
        self._metrics = WorkerMetrics(client.client.rank, task)
        self.url = serve(client, self._metrics.registry, place)
        self._samples = 0
        self._figures: Mapping[str, float] = {}
        self._life: Life | None = None
        log.info("metrics are served", url=self.url)

    def began_as_stage(self, stage: int, stages: int) -> None:
        """This process trains stage `stage` of a pipeline."""
        self._metrics.began_as_stage(stage, stages)

    def iterated(self, done: Iterated, carried: Carried) -> None:
        """A stage has computed its share of an iteration; `carried`: all that it has handed over and taken so far."""
        self._metrics.iterated(done.waited_seconds, done.in_flight, done.activation_bytes)
        self._metrics.handed_over(carried.sent_bytes, carried.received_bytes, carried.sent_again)

    def dropped_iteration(self) -> None:
        """What was under way is given up with the life of the replica."""
        self._metrics.dropped_iteration()

    def begun(self, life: Life | None, samples: int = 0, figures: Mapping[str, float] | None = None) -> None:
        """An update is about to go out, in this life; without samples it is a skip."""
        self._samples, self._figures = samples, figures or {}
        self._life = self._life or life

    def stepped(self, client: Client, conversation: Conversation, outcome: Outcome, times: StepTimes) -> None:
        """Its step is complete."""
        metrics, grant = self._metrics, conversation.grant
        metrics.computed(times.compute_seconds)
        metrics.reported(self._figures)
        if outcome.disposition is not None:
            taken = outcome.disposition in (Disposition.APPLIED, Disposition.HELD)
            metrics.pushed(times.push_seconds, outcome.disposition, self._samples if taken else 0)
        if outcome.reason is Code.NON_FINITE:
            metrics.skipped(SkipCause.NON_FINITE)
        elif outcome.reason is Code.UPDATE_TOO_LARGE:
            metrics.skipped(SkipCause.TOO_LARGE)
        elif not self._samples:
            metrics.skipped(SkipCause.ASKED)
        elif outcome.disposition is None and isinstance(outcome.reason, Code):
            metrics.dropped(outcome.reason)
        metrics.waited(times.wait_seconds)
        metrics.pulled(times.pull_seconds, conversation.clock, grant.lag if grant else 0, outcome.staleness)
        metrics.exchanged(client.traffic.sent_bytes, client.traffic.received_bytes, client.sent_again)
        metrics.stepped(times.total_seconds)
        code = outcome.reason if isinstance(outcome.reason, Code) else conversation.shared.ended_by
        if conversation.life != self._life and code is not None:
            metrics.rejoined(code)
        self._life = conversation.life
