"""An update is pushed, and what became of it; the parameters may come in the same reply.

The one rule: a push names all that it depends on, and is applied at most once, however often it is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from leeway.errors import MalformedRequest
from leeway.protocol import limits
from leeway.protocol.fields import MAX_INTEGER, Fields, shown
from leeway.protocol.lives import Life
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.times import StepTimes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.versions import Version


class UpdateKind(StrEnum):
    """`delta` is pulled minus local, which the server subtracts: a pseudo-gradient for every optimizer. `model` is the
    local weights themselves, of which the server makes that difference; only where updates are aggregated.
    """

    GRADIENT = "gradient"
    DELTA = "delta"
    MODEL = "model"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Push:
    """An update of iteration `clock`, or part `part` of `parts` of it.

    Named by (group, rank, incarnation, clock, part of parts): applied at most once, whatever is re-sent.
    `version`: the number it was computed from; `round`: under sync, the round likewise. `samples`: its weight.
    `keys`: the names of the tensors in the frame; `values`: those of them that are trainable and to be set to what is
    in the frame, in place of being stepped by it (frozen parameters that the script moves). `pull`: the next
    parameters are wanted in the same reply, if they are not those of `since`. `metrics` may end the run
    (`ps-serve --until-metric`); they and `times` (of the iteration before) decide nothing else.
    """

    life: Life
    clock: int
    version: int
    kind: UpdateKind
    samples: int = 0
    group: str = DEFAULT_GROUP
    round: int | None = None
    part: int = 0
    parts: int = 1
    keys: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    pull: bool = False
    since: Version | None = None
    wait_seconds: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict, compare=False)
    times: StepTimes | None = field(default=None, compare=False)

    def __str__(self) -> str:
        part = f" part {self.part + 1}/{self.parts}" if self.parts > 1 else ""
        verb = "pushpull" if self.pull else "push"
        return f"{verb} {self.life}@{self.clock} {self.kind} v{self.version}{part}"

    def __post_init__(self) -> None:
        if self.part >= self.parts:
            raise MalformedRequest(f"push: 'part' is {self.part}, it must be below 'parts' = {self.parts}")
        if self.kind is UpdateKind.SKIP and (self.keys or self.samples or self.parts > 1):
            raise MalformedRequest("push: a skip carries no tensors, no samples and comes in one part")
        if self.kind is not UpdateKind.SKIP and not self.samples:
            raise MalformedRequest(
                "push: 'samples' is 0, it must be at least 1; an iteration without samples is a skip"
            )
        if self.values and (unknown := set(self.values).difference(self.keys)):
            raise MalformedRequest(f"push: 'values' names {min(unknown)[:80]!r}, which is not among its tensors")

    @classmethod
    def read(
        cls,
        fields: Fields,
        keys: tuple[str, ...],
        *,
        pull: bool = False,
        since: Version | None = None,
        wait_seconds: float | None = None,
    ) -> Self:
        parts = fields.integer("parts", 1, limits.MAX_PARTS) if "parts" in fields else 1
        metrics = fields.mapping("metrics", limits.MAX_REPORTED_METRICS) if "metrics" in fields else {}
        for name, value in metrics.items():
            # NaN may be reported: a loss that has diverged is news. bool is no number here.
            if type(value) is not float and (type(value) is not int or abs(value) > MAX_INTEGER):
                raise MalformedRequest(f"push: metric {name[:80]!r} must be a number")
        values = fields.listing("values", limits.MAX_TENSORS) if "values" in fields else []
        if not all(isinstance(name, str) for name in values):
            raise MalformedRequest("push: 'values' must be a list of names")
        times = Fields(fields.mapping("times", limits.MAX_STEP_TIMES), "push: times") if "times" in fields else None
        return cls(
            life=Life.read(fields),
            clock=fields.integer("clock"),
            version=fields.integer("version"),
            kind=UpdateKind(fields.choice("kind", tuple(UpdateKind))),
            samples=fields.integer("samples") if "samples" in fields else 0,
            group=fields.rank("group") if "group" in fields else DEFAULT_GROUP,
            round=fields.integer("round") if "round" in fields else None,
            part=fields.integer("part", 0, limits.MAX_PARTS - 1) if "part" in fields else 0,
            parts=parts,
            keys=keys,
            values=tuple(values),
            pull=pull,
            since=since,
            wait_seconds=wait_seconds,
            metrics={name: float(value) for name, value in metrics.items()},
            times=StepTimes.read(times) if times else None,
        )

    def to_fields(self) -> dict[str, Any]:
        """What the frame's metadata says. `pull` and the wait are the request's, not the update's: a re-sent
        body is byte-identical whether or not it asks for parameters."""
        fields = self.life.to_fields() | {
            "group": self.group,
            "clock": self.clock,
            "version": self.version,
            "kind": str(self.kind),
            "samples": self.samples,
            "part": self.part,
            "parts": self.parts,
        }
        if self.round is not None:
            fields["round"] = self.round
        if self.values:
            fields["values"] = list(self.values)
        if self.metrics:
            fields["metrics"] = dict(self.metrics)
        if self.times:
            fields["times"] = self.times.to_fields()
        return fields


class Disposition(StrEnum):
    """What became of a push, for ever: recorded dispositions never change."""

    APPLIED = "applied"
    HELD = "held"
    MERGED = "merged"
    LATE = "late"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a push. `version` is the one it produced (applied on arrival), with its `staleness`.

    `next_clock`: the worker's next iteration, where that is not the one after `clock`: the push was late.
    """

    clock: int
    disposition: Disposition
    reason: Reason
    version: int | None = None
    staleness: int | None = None
    next_clock: int | None = None

    def __str__(self) -> str:
        late = f", on to {self.next_clock}" if self.next_clock is not None else ""
        outcome = f" -> v{self.version} staleness={self.staleness}" if self.version is not None else ""
        again = " (repeated)" if self.reason is Reason.REPEATED else ""
        failed = " (step failed)" if self.reason is Reason.STEP_FAILED else ""
        return f"{self.disposition} @{self.clock}{outcome}{late}{again}{failed}"

    @classmethod
    def read(cls, value: object) -> Pushed:
        fields = Fields(value, "pushed")
        return cls(
            clock=fields.integer("clock"),
            disposition=Disposition(fields.choice("disposition", tuple(Disposition))),
            reason=Reason(fields.choice("reason", tuple(Reason))),
            version=fields.integer("version") if "version" in fields else None,
            staleness=fields.integer("staleness") if "staleness" in fields else None,
            next_clock=fields.integer("next_clock") if "next_clock" in fields else None,
        )

    def to_fields(self) -> dict[str, Any]:
        fields = {
            "clock": self.clock,
            "disposition": str(self.disposition),
            "reason": str(self.reason),
            "version": self.version,
            "staleness": self.staleness,
        }
        return fields if self.next_clock is None else fields | {"next_clock": self.next_clock}


@dataclass(frozen=True, slots=True)
class Staged:
    """A part has come; these are missing. Staged is not acknowledged."""

    clock: int
    missing: tuple[int, ...]

    def __str__(self) -> str:
        return f"staged @{self.clock} missing {','.join(str(part + 1) for part in self.missing)}"

    @classmethod
    def read(cls, value: object) -> Staged:
        fields = Fields(value, "staged")
        return cls(fields.integer("clock"), fields.integers("missing", limits.MAX_PARTS, limits.MAX_PARTS))

    def to_fields(self) -> dict[str, Any]:
        return {"clock": self.clock, "missing": list(self.missing)}


@dataclass(frozen=True, slots=True)
class PushPulled:
    """Both in one reply: the push's result is never lost in the pull's."""

    pushed: Pushed
    pulled: Granted | NotYet | Refused

    def __str__(self) -> str:
        return f"{self.pushed}; {self.pulled}"

    @classmethod
    def read(cls, value: object) -> PushPulled:
        if not isinstance(value, dict):
            raise MalformedRequest(f"push and pull must be an object, not {shown(value)}")
        pushed, pulled = Pushed.read(value.get("push")), value.get("pull")
        match value.get("pulled"):
            case "granted":
                return cls(pushed, Granted.read(pulled))
            case "not-yet":
                return cls(pushed, NotYet.read(pulled))
            case "refused":
                status = pulled.get("status", 500) if isinstance(pulled, dict) else 500
                return cls(pushed, Refused.read(pulled, status))
            case other:
                raise MalformedRequest(
                    f"push and pull: 'pulled' is {shown(other)}, it must be granted, not-yet or refused"
                )

    def to_fields(self) -> dict[str, Any]:
        pulled = _PULLED[type(self.pulled)]
        return {"push": self.pushed.to_fields(), "pulled": pulled, "pull": self.pulled.to_fields()}


_PULLED: Mapping[type, str] = {Granted: "granted", NotYet: "not-yet", Refused: "refused"}


@dataclass(frozen=True, slots=True)
class LastPush:
    """The last accepted push of an incarnation in a group. Disposition None: accepted, still being applied."""

    clock: int
    disposition: Disposition | None

    def __str__(self) -> str:
        return f"@{self.clock} {self.disposition or 'pending'}"

    @classmethod
    def read(cls, value: object) -> LastPush:
        fields = Fields(value, "last push")
        disposition = Disposition(fields.choice("disposition", tuple(Disposition))) if "disposition" in fields else None
        return cls(fields.integer("clock"), disposition)

    def to_fields(self) -> dict[str, Any]:
        return {"clock": self.clock, "disposition": self.disposition and str(self.disposition)}


def last_pushes(value: object) -> dict[str, LastPush]:
    """Read the `last` fact of a refusal: the last disposition of an ended incarnation in each group."""
    if not isinstance(value, dict):
        raise MalformedRequest("'last' must be an object")
    return {str(group): LastPush.read(last) for group, last in value.items() if last is not None}
