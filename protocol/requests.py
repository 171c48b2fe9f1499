"""What a worker asks: frozen messages, the same objects on the wire, in the pure core and in the simulation.

The one rule: a request names everything it depends on (epoch, incarnation, clock), so that it can be judged
whenever its last byte comes in, however often it is sent. No tensor is in a message; frames carry those.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from leeway.errors import MalformedRequest
from leeway.protocol import limits
from leeway.protocol.fields import MAX_INTEGER, Fields
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.times import StepTimes
from leeway.protocol.versions import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.tensors import TensorSpec

DEFAULT_GROUP = "default"


class UpdateKind(StrEnum):
    """`delta` is pulled minus local, which the server subtracts: a pseudo-gradient for every optimizer. `model` is the
    local weights themselves, of which the server makes that difference; only where updates are aggregated.
    """

    GRADIENT = "gradient"
    DELTA = "delta"
    MODEL = "model"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a rank, as every request of a worker names it."""

    rank: str
    epoch: int
    incarnation: int

    def __str__(self) -> str:
        return f"{self.rank}#{self.incarnation}"

    @classmethod
    def read(cls, fields: Fields) -> Life:
        return cls(fields.rank("rank"), fields.integer("epoch"), fields.integer("incarnation", minimum=1))

    def to_fields(self) -> dict[str, Any]:
        return {"rank": self.rank, "epoch": self.epoch, "incarnation": self.incarnation}


@dataclass(frozen=True, slots=True)
class Join:
    """Begin a life, or take up again the one of this session. `groups` None means all."""

    rank: str
    session: str
    groups: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"join {self.rank} session={self.session}"

    @classmethod
    def read(cls, fields: Fields) -> Join:
        groups = None
        if "groups" in fields:
            groups = tuple(fields.listing("groups", limits.MAX_GROUPS))
            if not groups or not all(isinstance(group, str) for group in groups):
                raise MalformedRequest("join: 'groups' must be a list of one or more names, or absent for all")
        return cls(fields.rank("rank"), fields.text("session", limits.MAX_SESSION_LENGTH), groups)

    def to_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"rank": self.rank, "session": self.session}
        if self.groups is not None:
            fields["groups"] = list(self.groups)
        return fields


@dataclass(frozen=True, slots=True)
class Leave:
    """End a life in good order. Accepted pushes stay, staged parts are dropped."""

    life: Life

    def __str__(self) -> str:
        return f"leave {self.life}"

    @classmethod
    def read(cls, fields: Fields) -> Leave:
        return cls(Life.read(fields))

    def to_fields(self) -> dict[str, Any]:
        return self.life.to_fields()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Renew the lease while a long step computes."""

    life: Life

    def __str__(self) -> str:
        return f"heartbeat {self.life}"

    @classmethod
    def read(cls, fields: Fields) -> Heartbeat:
        return cls(Life.read(fields))

    def to_fields(self) -> dict[str, Any]:
        return self.life.to_fields()


@dataclass(frozen=True, slots=True)
class Offer:
    """Initial values, judged key by key; `ask` is the question before: which of these are wanted at all?

    `whole`: these are all keys of the group, and a group with others is refused. `group`: all keys are of this one;
    None: each is of the group whose patterns it matches, and a whole offer is about the default one. `aliases`:
    further names of tied tensors, under which a file may have them. `from_file`: the server's own, of `--init`.
    """

    specs: tuple[TensorSpec, ...]
    ask: bool = False
    whole: bool = False
    group: str | None = None
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    from_file: bool = False

    def __str__(self) -> str:
        verb = "ask" if self.ask else "init" if self.from_file else "offer"
        return f"{verb} {'whole ' if self.whole else ''}{','.join(spec.name for spec in self.specs)}"

    @classmethod
    def read(cls, fields: Fields, specs: tuple[TensorSpec, ...], *, ask: bool) -> Offer:
        aliases = fields.mapping("aliases", limits.MAX_TENSORS) if "aliases" in fields else {}
        names = {spec.name for spec in specs}
        for name, others in aliases.items():
            if name not in names:
                raise MalformedRequest(f"offer: 'aliases' has {name[:80]!r}, which is no tensor of this offer")
            if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
                raise MalformedRequest(f"offer: 'aliases' of {name[:80]!r} must be a list of names")
            if not names.isdisjoint(others):
                raise MalformedRequest(f"offer: an alias of {name[:80]!r} is a tensor of this offer too")
        return cls(
            specs,
            ask,
            whole=fields.flag("whole"),
            group=fields.rank("group") if "group" in fields else None,
            aliases={name: tuple(others) for name, others in aliases.items()},
        )

    def to_fields(self) -> dict[str, Any]:
        """What goes with the specs in the question, and in the frame's metadata with the values."""
        fields: dict[str, Any] = {}
        if self.whole:
            fields["whole"] = True
        if self.group is not None:
            fields["group"] = self.group
        if self.aliases:
            fields["aliases"] = {name: list(others) for name, others in self.aliases.items()}
        return fields


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
class Push:
    """An update of iteration `clock`, or part `part` of `parts` of it.

    Named by (group, rank, incarnation, clock, part of parts): applied at most once, whatever is re-sent.
    `version`: the number it was computed from; `round`: under sync, the round likewise. `samples`: its weight.
    `keys`: the names of the tensors in the frame; `values`: those of them that are trainable and to be set to what is
    in the frame, in place of being stepped by it (frozen parameters that the script moves). `pull`: the next
    parameters are wanted in the same reply, if they are not those of `since`. `metrics` and `times` (of the iteration
    before) are told, and decide nothing.
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


@dataclass(frozen=True, slots=True)
class Barrier:
    """Arrive at generation `generation` of a named barrier. `parties`: not to pass with fewer arrived than this."""

    life: Life
    name: str
    generation: int
    parties: int = 1
    wait_seconds: float | None = None

    def __str__(self) -> str:
        return f"barrier {self.name}/{self.generation} {self.life}"

    @classmethod
    def read(cls, fields: Fields, name: str, wait_seconds: float | None) -> Barrier:
        return cls(
            life=Life.read(fields),
            name=Fields({"name": name}, "barrier").rank("name"),
            generation=fields.integer("generation"),
            parties=fields.integer("parties", 1, limits.MAX_RANKS) if "parties" in fields else 1,
            wait_seconds=wait_seconds,
        )

    def to_fields(self) -> dict[str, Any]:
        return self.life.to_fields() | {"generation": self.generation, "parties": self.parties}


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Change the policy of a live group."""

    terms: PolicyTerms
    group: str = DEFAULT_GROUP

    def __str__(self) -> str:
        return f"policy {self.terms}"

    @classmethod
    def read(cls, fields: Fields, group: str) -> SetPolicy:
        return cls(PolicyTerms.read(fields, wanted=True), group)

    def to_fields(self) -> dict[str, Any]:
        return {name: value for name, value in self.terms.to_fields().items() if value is not None}


@dataclass(frozen=True, slots=True)
class SetOptimizer:
    """From the next step decided on, the group's optimizer goes by these settings, as plain data.

    A peer names those that are to change; the machine is told all of them.
    """

    group: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"optimizer of {self.group}: {', '.join(f'{name} {value}' for name, value in self.settings.items())}"


WorkerRequest = Leave | Heartbeat | Pull | Push | Barrier
Request = Join | Offer | SetPolicy | SetOptimizer | WorkerRequest
