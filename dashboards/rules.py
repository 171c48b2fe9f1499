"""What Prometheus computes by itself: rates and quantiles under names of their own, for alerts and for long times.

The one rule: dashboards do not need them. They are imported into a Grafana whose Prometheus may know no rule of ours.

A rule's name is level:metric:operation, the level being the labels that are left beside job and instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import yaml

from dashboards.queries import TARGET, Part, Scope
from leeway.ps.watching import catalogue as server
from leeway.worker.watching import catalogue as worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME: Final = "leeway-recorded"


@dataclass(frozen=True, slots=True)
class Rule:
    """A series that Prometheus computes: `name` from `expression`."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Rules:
    """Every recorded series, with rates over `window` (a duration of Prometheus, as 5m)."""

    window: str = "5m"

    @property
    def scope(self) -> Scope:
        return Scope(self.window)

    @property
    def held(self) -> Rule:
        """For each worker the share of time in which others waited for it."""
        metric = server.BARRIER_HELD_SECONDS
        return Rule(
            f"group_rank:{metric.name}:rate{self.window}", self.scope.rate(metric, by=(*TARGET, "group", "rank"))
        )

    @property
    def waiting(self) -> Rule:
        """For each worker the share of time in which it waited."""
        metric = server.WAITING_SECONDS
        return Rule(
            f"group_rank:{metric.name}:rate{self.window}", self.scope.rate(metric, by=(*TARGET, "group", "rank"))
        )

    @property
    def loop_lag(self) -> Rule:
        metric = server.EVENT_LOOP_LAG_SECONDS
        return Rule(f"instance:{metric.name}:p99_{self.window}", self.scope.quantile(0.99, metric, by=TARGET))

    @property
    def steps(self) -> Rule:
        metric = server.STEPS
        return Rule(f"group:{metric.name}:rate{self.window}", self.scope.rate(metric, by=(*TARGET, "group")))

    def all(self) -> list[Rule]:
        scope, window = self.scope, self.window
        return [
            self.steps,
            Rule(f"group:{server.PUSHES.name}:rate{window}", scope.rate(server.PUSHES, by=(*TARGET, "group"))),
            self.waiting,
            self.held,
            Rule(f"group:{server.STALENESS.name}:mean{window}", scope.mean(server.STALENESS, by=(*TARGET, "group"))),
            Rule(
                f"group:{server.STALENESS.name}:p99_{window}",
                scope.quantile(0.99, server.STALENESS, by=(*TARGET, "group")),
            ),
            Rule(
                f"route:{server.REQUEST_SECONDS.name}:p99_{window}",
                scope.quantile(0.99, server.REQUEST_SECONDS, by=(*TARGET, "route")),
            ),
            Rule(f"instance:{server.RECEIVED_BYTES.name}:rate{window}", scope.rate(server.RECEIVED_BYTES, by=TARGET)),
            Rule(f"instance:{server.SENT_BYTES.name}:rate{window}", scope.rate(server.SENT_BYTES, by=TARGET)),
            self.loop_lag,
            Rule(f"rank:{worker.SAMPLES.name}:rate{window}", scope.with_rank(scope.rate(worker.SAMPLES, by=TARGET))),
            Rule(
                f"rank:{worker.STEP_SECONDS.name}:mean{window}",
                scope.with_rank(f"({scope.mean(worker.STEP_SECONDS, by=TARGET)})"),
            ),
            Rule(
                f"rank:{worker.WAIT_SECONDS.name}:rate{window}",
                scope.with_rank(scope.rate(worker.WAIT_SECONDS, by=TARGET, part=Part.SUM)),
            ),
        ]

    def encoded(self) -> str:
        """The rules as a file of Prometheus."""
        rules = [{"record": rule.name, "expr": rule.expression} for rule in self.all()]
        return encoded(NAME, rules)


def encoded(group: str, rules: Sequence[Mapping[str, object]]) -> str:
    """A file of rules with one group, the same at every build."""
    head = "# Made by `python -m dashboards`; change dashboards/*.py instead.\n"
    text: str = yaml.safe_dump(
        {"groups": [{"name": group, "rules": [dict(rule) for rule in rules]}]},
        sort_keys=False,
        width=1000,
        allow_unicode=True,
    )
    return head + text
