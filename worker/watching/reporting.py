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
    from leeway.worker.blocking import BlockingClient
    from leeway.worker.part import Part
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

    def begun(self, part: Part, samples: int = 0, figures: Mapping[str, float] | None = None) -> None:
        """An update is about to go out; without samples it is a skip."""
        self._samples, self._figures = samples, figures or {}
        self._life = self._life or part.conversation.life

    def stepped(self, part: Part) -> None:
        """Its step is complete."""
        metrics, times, outcome = self._metrics, part.times, part.outcome
        assert outcome is not None
        metrics.computed(times.compute_seconds)
        metrics.reported(self._figures)
        if outcome.disposition is not None:
            taken = outcome.disposition in (Disposition.APPLIED, Disposition.HELD)
            metrics.pushed(times.push_seconds, outcome.disposition, self._samples if taken else 0)
        if outcome.reason is Code.NON_FINITE:
            metrics.skipped(SkipCause.NON_FINITE)
        elif not self._samples:
            metrics.skipped(SkipCause.ASKED)
        elif outcome.disposition is None and isinstance(outcome.reason, Code):
            metrics.dropped(outcome.reason)
        client = part.client
        metrics.waited(times.wait_seconds)
        metrics.pulled(times.pull_seconds, part.clock, part.lag, part.staleness)
        metrics.exchanged(client.traffic.sent_bytes, client.traffic.received_bytes, client.sent_again)
        metrics.stepped(times.compute_seconds + times.push_seconds + times.wait_seconds + times.pull_seconds)
        life = part.conversation.life
        if life != self._life and isinstance(outcome.reason, Code):
            metrics.rejoined(outcome.reason)
        self._life = life
