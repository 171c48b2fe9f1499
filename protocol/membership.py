"""A worker joins, keeps its lease and leaves; and what it is told: all that a joiner needs to go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leeway.errors import MalformedRequest
from leeway.protocol import limits
from leeway.protocol.capacity import DEFAULT_CAPACITY, Capacity
from leeway.protocol.fields import Fields
from leeway.protocol.lives import Life
from leeway.protocol.pushes import LastPush
from leeway.protocol.ranks import NAME_WORDS, is_rank
from leeway.protocol.replicas import Place, Replica
from leeway.protocol.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Join:
    """Begin a life, or take up again the one of this session. `groups` None means all that the server was started with.

    `create`: those of the groups that are made where they are not there yet, each for the keys `NAME/*`, with the
    default group's settings. `one_after_another`: this life never asks for one thing while it waits for another, so
    that a circle of such lives, each waiting in one group and missed in the next, is one that nothing would end.
    `revision`: how often this session has named other groups before; a join that comes late and has a smaller one than
    the life has seen changes nothing. `place`: the one that this process, of the id `session`, wants in a replica;
    `wait_seconds`: how long it waits for the other stages.
    """

    rank: str
    session: str
    groups: tuple[str, ...] | None = None
    create: tuple[str, ...] = ()
    one_after_another: bool = False
    revision: int = 0
    place: Place | None = None
    wait_seconds: float | None = None

    def __str__(self) -> str:
        place = f" {self.place}" if self.place else ""
        create = f" create={','.join(self.create)}" if self.create else ""
        return f"join {self.rank} session={self.session}{place}{create}"

    @classmethod
    def read(cls, fields: Fields, wait_seconds: float | None = None) -> Join:
        groups = None
        if "groups" in fields:
            groups = tuple(fields.listing("groups", limits.MAX_GROUPS))
            if not groups or not all(isinstance(group, str) for group in groups):
                raise MalformedRequest("join: 'groups' must be a list of one or more names, or absent for all")
        create = tuple(fields.listing("create", limits.MAX_GROUPS)) if "create" in fields else ()
        if not all(isinstance(name, str) and is_rank(name) and name in (groups or ()) for name in create):
            raise MalformedRequest(f"join: 'create' must be a list of names of 'groups', each {NAME_WORDS}")
        return cls(
            fields.rank("rank"),
            fields.text("session", limits.MAX_SESSION_LENGTH),
            groups,
            create,
            fields.flag("one_after_another"),
            fields.integer("revision") if "revision" in fields else 0,
            Place.read(fields.mapping("place", 16)) if "place" in fields else None,
            wait_seconds,
        )

    def to_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"rank": self.rank, "session": self.session}
        if self.groups is not None:
            fields["groups"] = list(self.groups)
        if self.create:
            fields["create"] = list(self.create)
        if self.one_after_another:
            fields["one_after_another"] = True
        if self.revision:
            fields["revision"] = self.revision
        if self.place:
            fields["place"] = self.place.to_fields()
        return fields


@dataclass(frozen=True, slots=True)
class GroupState:
    """What a joiner must know of one group: its clock there, the policy and the schema.

    `whole`: these are all the keys there will be, for a worker has declared so. `until`: the clock at which it is
    complete, None for the run's, 0 for none: it goes on as long as others do. `committed`: how many updates of this
    rank have been accepted in all its lives, skips included: its place in the data.
    """

    clock: int
    policy: str
    last: LastPush | None = None
    specs: tuple[TensorSpec, ...] = ()
    whole: bool = False
    until: int | None = None
    committed: int = 0

    @classmethod
    def read(cls, value: object) -> GroupState:
        fields = Fields(value, "group")
        return cls(
            clock=fields.integer("clock"),
            policy=fields.text("policy", 64),
            last=LastPush.read(fields.mapping("last", 8)) if "last" in fields else None,
            specs=tuple(TensorSpec.read(item) for item in fields.listing("specs", limits.MAX_TENSORS)),
            whole=fields.flag("whole"),
            until=fields.integer("until") if "until" in fields else None,
            committed=fields.integer("committed") if "committed" in fields else 0,
        )

    def to_fields(self) -> dict[str, Any]:
        return {
            "clock": self.clock,
            "policy": self.policy,
            "last": self.last and self.last.to_fields(),
            "specs": [spec.to_row() for spec in self.specs],
            "whole": self.whole,
            "until": self.until,
            "committed": self.committed,
        }


@dataclass(frozen=True, slots=True)
class Joined:
    """A life. `resumed`: it is the one this session already had. `index` of `count` live workers, for the data.

    `replica`: of which it is a stage.
    """

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
    replica: Replica | None = None

    def __str__(self) -> str:
        clocks = " ".join(f"{name}@{group.clock}" for name, group in self.groups.items())
        committed = "".join(f" committed={group.committed}" for group in self.groups.values() if self.replica)
        return f"{'resumed' if self.resumed else 'joined'} #{self.incarnation} {clocks}{committed}"

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
            replica=Replica.read(fields.mapping("replica", 16)) if "replica" in fields else None,
        )

    def to_fields(self) -> dict[str, Any]:
        fields = {
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
        return fields if self.replica is None else fields | {"replica": self.replica.to_fields()}


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
