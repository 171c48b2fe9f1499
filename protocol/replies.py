"""What a server answers: frozen messages, as the requests are.

The one rule: a reply says what was decided, why, and what the asker needs to go on; a lost one can be asked
for again. Refusals are replies too: a `Refused` carries the `WireError` that the peer gets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from leeway.errors import MalformedRequest, WireError
from leeway.protocol import limits
from leeway.protocol.capacity import DEFAULT_CAPACITY, Capacity
from leeway.protocol.fields import Fields, shown
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.reasons import Reason
from leeway.protocol.tensors import TensorSpec
from leeway.protocol.versions import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.codes import Code


class Disposition(StrEnum):
    """What became of a push, for ever: recorded dispositions never change."""

    APPLIED = "applied"
    HELD = "held"
    MERGED = "merged"
    LATE = "late"
    SKIPPED = "skipped"


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
        said = Disposition(fields.choice("disposition", tuple(Disposition))) if "disposition" in fields else None
        return cls(fields.integer("clock"), said)

    def to_fields(self) -> dict[str, Any]:
        return {"clock": self.clock, "disposition": self.disposition and str(self.disposition)}


@dataclass(frozen=True, slots=True)
class GroupState:
    """What a joiner must know of one group: its clock there, the policy and the schema.

    `whole`: these are all the keys there will be, for a worker has declared so.
    """

    clock: int
    policy: str
    last: LastPush | None = None
    specs: tuple[TensorSpec, ...] = ()
    whole: bool = False

    @classmethod
    def read(cls, value: object) -> GroupState:
        fields = Fields(value, "group")
        return cls(
            clock=fields.integer("clock"),
            policy=fields.text("policy", 64),
            last=LastPush.read(fields.mapping("last", 8)) if "last" in fields else None,
            specs=tuple(TensorSpec.read(item) for item in fields.listing("specs", limits.MAX_TENSORS)),
            whole=fields.flag("whole"),
        )

    def to_fields(self) -> dict[str, Any]:
        return {
            "clock": self.clock,
            "policy": self.policy,
            "last": self.last and self.last.to_fields(),
            "specs": [spec.to_row() for spec in self.specs],
            "whole": self.whole,
        }


@dataclass(frozen=True, slots=True)
class Joined:
    """A life. `resumed`: it is the one this session already had. `index` of `count` live workers, for the data."""

    epoch: int
    incarnation: int
    resumed: bool
    lease_seconds: float
    index: int
    count: int
    groups: Mapping[str, GroupState]
    barriers: Mapping[str, int] = field(default_factory=dict)
    until: int | None = None
    limits: Capacity = DEFAULT_CAPACITY

    def __str__(self) -> str:
        clocks = " ".join(f"{name}@{group.clock}" for name, group in self.groups.items())
        return f"{'resumed' if self.resumed else 'joined'} #{self.incarnation} {clocks}"

    @classmethod
    def read(cls, value: object) -> Joined:
        fields = Fields(value, "joined")
        groups = fields.mapping("groups", limits.MAX_GROUPS)
        barriers = fields.mapping("barriers", limits.MAX_BARRIERS)
        return cls(
            epoch=fields.integer("epoch"),
            incarnation=fields.integer("incarnation", 1),
            resumed=fields.flag("resumed"),
            lease_seconds=fields.number("lease_seconds"),
            index=fields.integer("index"),
            count=fields.integer("count", 1),
            groups={name: GroupState.read(group) for name, group in groups.items()},
            barriers={name: Fields(barriers, "barriers").integer(name) for name in barriers},
            until=fields.integer("until", 1) if "until" in fields else None,
            limits=Capacity.read(fields.mapping("limits", 64)) if "limits" in fields else DEFAULT_CAPACITY,
        )

    def to_fields(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "incarnation": self.incarnation,
            "resumed": self.resumed,
            "lease_seconds": self.lease_seconds,
            "index": self.index,
            "count": self.count,
            "groups": {name: group.to_fields() for name, group in self.groups.items()},
            "barriers": dict(self.barriers),
            "until": self.until,
            "limits": self.limits.to_fields(),
        }


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
        made = f" -> v{self.version} staleness={self.staleness}" if self.version is not None else ""
        again = " (repeated)" if self.reason is Reason.REPEATED else ""
        failed = " (step failed)" if self.reason is Reason.STEP_FAILED else ""
        return f"{self.disposition} @{self.clock}{made}{late}{again}{failed}"

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
class Refused:
    """No. The error says why and what to do; nothing was changed."""

    error: WireError

    def __str__(self) -> str:
        return str(self.error)

    @classmethod
    def read(cls, value: object, status: int) -> Refused:
        """Of a problem document that came with this HTTP status, or names it itself."""
        return cls(WireError.from_document(value, status))

    def to_fields(self) -> dict[str, Any]:
        return self.error.to_document()


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
class Offered:
    """Key by key: stored now (or, after the question: `wanted`), or kept as it was."""

    stored: tuple[str, ...]
    kept: tuple[str, ...]
    wanted: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join(
            f"{verb}={','.join(names)}"
            for verb, names in (("stored", self.stored), ("kept", self.kept), ("wanted", self.wanted))
            if names
        )

    @classmethod
    def read(cls, value: object) -> Offered:
        fields = Fields(value, "offered")
        lists = [
            tuple(str(name) for name in fields.listing(key, limits.MAX_TENSORS)) for key in ("stored", "kept", "wanted")
        ]
        return cls(*lists)

    def to_fields(self) -> dict[str, Any]:
        return {"stored": list(self.stored), "kept": list(self.kept), "wanted": list(self.wanted)}


@dataclass(frozen=True, slots=True)
class Passed:
    """The barrier's generation is passed; the next is `generation` + 1."""

    name: str
    generation: int

    def __str__(self) -> str:
        return f"passed {self.name}/{self.generation}"

    @classmethod
    def read(cls, value: object) -> Passed:
        fields = Fields(value, "passed")
        return cls(fields.rank("name"), fields.integer("generation"))

    def to_fields(self) -> dict[str, Any]:
        return {"name": self.name, "generation": self.generation}


@dataclass(frozen=True, slots=True)
class Renewed:
    """The lease runs for so long again."""

    lease_seconds: float

    def __str__(self) -> str:
        return "renewed"

    @classmethod
    def read(cls, value: object) -> Renewed:
        return cls(Fields(value, "renewed").number("lease_seconds"))

    def to_fields(self) -> dict[str, Any]:
        return {"lease_seconds": self.lease_seconds}


@dataclass(frozen=True, slots=True)
class Departed:
    """The life has ended in good order."""

    rank: str

    def __str__(self) -> str:
        return f"{self.rank} has left"

    @classmethod
    def read(cls, value: object) -> Departed:
        return cls(Fields(value, "departed").rank("rank"))

    def to_fields(self) -> dict[str, Any]:
        return {"rank": self.rank}


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The policy of a group; `switching_at`: on the way to sync, the clock at which round one opens."""

    group: str
    terms: PolicyTerms
    switching_at: int | None = None

    def __str__(self) -> str:
        at = f" from clock {self.switching_at}" if self.switching_at is not None else ""
        return f"policy {self.terms}{at}"

    @classmethod
    def read(cls, value: object) -> PolicyState:
        fields = Fields(value, "policy")
        return cls(
            group=fields.rank("group"),
            terms=PolicyTerms.read(fields),
            switching_at=fields.integer("switching_at") if "switching_at" in fields else None,
        )

    def to_fields(self) -> dict[str, Any]:
        terms = self.terms.to_fields()
        of_a_quorum = {name: terms.pop(name) for name in ("quorum", "grace_seconds")}
        fields = {"group": self.group, **terms, "switching_at": self.switching_at}
        return fields if self.terms.quorum is None else fields | of_a_quorum


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """The settings that the group's optimizer goes by, from the next step decided on."""

    group: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"optimizer of {self.group} set"

    @classmethod
    def read(cls, value: object) -> OptimizerState:
        group = Fields(value, "optimizer").rank("group")
        assert isinstance(value, dict)
        return cls(group, {name: setting for name, setting in value.items() if name != "group"})

    def to_fields(self) -> dict[str, Any]:
        return {"group": self.group, **self.settings}


Reply = (
    Joined
    | Departed
    | Renewed
    | Offered
    | Granted
    | NotYet
    | Pushed
    | Staged
    | PushPulled
    | Passed
    | PolicyState
    | OptimizerState
    | Refused
)


def refuse(code: Code, detail: str, **facts: Any) -> Refused:
    """A refusal with its code, words for people, and facts for the client."""
    return Refused(WireError(code, detail, **facts))


def last_pushes(value: object) -> dict[str, LastPush]:
    """Read the `last` fact of a refusal: the last disposition of an ended incarnation in each group."""
    if not isinstance(value, dict):
        raise MalformedRequest("'last' must be an object")
    return {str(group): LastPush.read(last) for group, last in value.items() if last is not None}
