"""The parameters are asked for: granted, or not yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leeway.protocol import limits
from leeway.protocol.fields import Fields
from leeway.protocol.lives import Life
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.reasons import Reason
from leeway.protocol.versions import Version


@dataclass(frozen=True, slots=True)
class Pull:
    """Read a group. With a life it is the pull of iteration `clock`; without one, a reader's.

    `wait_seconds` None: an unmet condition answers at once with `NotYet`; a number parks the request so long.
    `since`: the version the asker already holds.
    """

    group: str = DEFAULT_GROUP
    life: Life | None = None
    clock: int = 0
    min_version: int = 0
    since: Version | None = None
    wait_seconds: float | None = None

    def __str__(self) -> str:
        who = f"{self.life}@{self.clock}" if self.life else "reader"
        least = f" min_version={self.min_version}" if self.min_version else ""
        return f"pull {who}{least}"

    @classmethod
    def read(cls, fields: Fields, wait_seconds: float | None) -> Pull:
        life = Life.read(fields) if "rank" in fields else None
        return cls(
            group=fields.rank("group") if "group" in fields else DEFAULT_GROUP,
            life=life,
            clock=fields.integer("clock") if life else 0,
            min_version=fields.integer("min_version") if "min_version" in fields else 0,
            since=Version.parse(fields.text("since")) if "since" in fields else None,
            wait_seconds=wait_seconds,
        )

    def to_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"group": self.group}
        if self.life:
            fields |= self.life.to_fields() | {"clock": self.clock}
        if self.min_version:
            fields["min_version"] = self.min_version
        if self.since:
            fields["since"] = str(self.since)
        return fields


@dataclass(frozen=True, slots=True)
class Granted:
    """A pull is answered with this version. For a worker: the pull of iteration `clock`, of `round` under sync.

    `lag` is the clock minus the min clock at the grant. `step_failed`: the worker's last update was held in a round
    whose step failed; it is in no version. `too_few`: likewise, because the round had too few updates for the group's
    aggregation rule.
    """

    version: Version
    reason: Reason
    clock: int | None = None
    round: int | None = None
    lag: int = 0
    index: int = 0
    count: int = 0
    unchanged: bool = False
    step_failed: bool = False
    too_few: bool = False

    def __str__(self) -> str:
        of_round = f" round {self.round}" if self.round is not None else ""
        same = " unchanged" if self.unchanged else ""
        failed = " (step failed)" if self.step_failed else " (too few updates)" if self.too_few else ""
        return f"ok v{self.version.number}{of_round} lag={self.lag}{same}{failed}"

    @classmethod
    def read(cls, value: object) -> Granted:
        fields = Fields(value, "granted")
        return cls(
            version=Version.parse(fields.text("version", 40)),
            reason=Reason(fields.choice("reason", tuple(Reason))),
            clock=fields.integer("clock") if "clock" in fields else None,
            round=fields.integer("round") if "round" in fields else None,
            lag=fields.integer("lag"),
            index=fields.integer("index"),
            count=fields.integer("count"),
            unchanged=fields.flag("unchanged"),
            step_failed=fields.flag("step_failed"),
            too_few=fields.flag("too_few"),
        )

    def to_fields(self) -> dict[str, Any]:
        return {
            "version": str(self.version),
            "reason": str(self.reason),
            "clock": self.clock,
            "round": self.round,
            "lag": self.lag,
            "index": self.index,
            "count": self.count,
            "unchanged": self.unchanged,
            "step_failed": self.step_failed,
            "too_few": self.too_few,
        }


@dataclass(frozen=True, slots=True)
class NotYet:
    """The condition is not met: why, and for whom. Ask again."""

    reason: Reason
    detail: str
    waiting_for: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"not yet: {self.detail}"

    @classmethod
    def read(cls, value: object) -> NotYet:
        fields = Fields(value, "not-yet")
        return cls(
            reason=Reason(fields.choice("reason", tuple(Reason))),
            detail=fields.text("detail"),
            waiting_for=tuple(str(rank) for rank in fields.listing("waiting_for", limits.MAX_NAMED_WAITERS)),
        )

    def to_fields(self) -> dict[str, Any]:
        return {
            "reason": str(self.reason),
            "detail": self.detail,
            "waiting_for": list(self.waiting_for[: limits.MAX_NAMED_WAITERS]),
        }
