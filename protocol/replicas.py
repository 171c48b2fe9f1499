"""A replica: one life that is spread over several processes, its stages, each with a place in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leeway.errors import MalformedRequest
from leeway.protocol import limits
from leeway.protocol.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Place:
    """The place that a process asks for: stage `stage` of `stages`, from 0.

    `address`: where the other stages reach it. `plan`: what has to be the same in all of them (model, seed, ...), by
    name. `notes`: for the others; the server hands them on and reads nothing of them. `keys`: what it pulls, None for
    the whole group; `owned`: what of that it pushes, and no other stage does.
    """

    stage: int
    stages: int
    address: str = ""
    plan: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""
    keys: tuple[str, ...] | None = None
    owned: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"stage {self.stage} of {self.stages}"

    def __post_init__(self) -> None:
        if self.stage >= self.stages:
            raise MalformedRequest(f"join: 'stage' is {self.stage}, it must be below 'stages' = {self.stages}")
        if (self.keys is None) != (self.owned is None):
            raise MalformedRequest("join: 'keys' and 'owned' come together: what a stage pulls, and pushes of it")
        if strange := set(self.owned or ()).difference(self.keys or ()):
            raise MalformedRequest(f"join: 'owned' names {min(strange)[:80]!r}, which is not among the stage's 'keys'")

    @classmethod
    def read(cls, value: object) -> Place:
        fields = Fields(value, "join: place")
        plan = fields.mapping("plan", limits.MAX_PLAN) if "plan" in fields else {}
        its = Fields(plan, "join: plan")
        return cls(
            fields.integer("stage", 0, limits.MAX_STAGES - 1),
            fields.integer("stages", 1, limits.MAX_STAGES),
            fields.text("address", limits.MAX_ADDRESS) if "address" in fields else "",
            {name: its.text(name, limits.MAX_PLAN_TEXT) for name in plan},
            fields.text("notes", limits.MAX_NOTES) if "notes" in fields else "",
            _names(fields, "keys"),
            _names(fields, "owned"),
        )

    def to_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"stage": self.stage, "stages": self.stages}
        if self.address:
            fields["address"] = self.address
        if self.plan:
            fields["plan"] = dict(self.plan)
        if self.notes:
            fields["notes"] = self.notes
        if self.keys is not None and self.owned is not None:
            fields |= {"keys": list(self.keys), "owned": list(self.owned)}
        return fields


def _names(fields: Fields, name: str) -> tuple[str, ...] | None:
    if name not in fields:
        return None
    names = fields.listing(name, limits.MAX_TENSORS)
    if not all(isinstance(key, str) and 1 <= len(key) <= limits.MAX_NAME for key in names):
        raise MalformedRequest(f"join: place: {name!r} must be a list of names of tensors")
    return tuple(names)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage, as the others are told of it."""

    address: str
    notes: str

    @classmethod
    def read(cls, value: object) -> Stage:
        fields = Fields(value, "stage")
        return cls(
            fields.text("address", limits.MAX_ADDRESS) if "address" in fields else "",
            fields.text("notes", limits.MAX_NOTES) if "notes" in fields else "",
        )

    def to_fields(self) -> dict[str, Any]:
        return {"address": self.address or None, "notes": self.notes or None}


@dataclass(frozen=True, slots=True)
class Replica:
    """What a stage is told of its replica when that begins: all stages, in their order, and the secret of this life, by
    which they know each other. The machine knows no secret.
    """

    stages: tuple[Stage, ...]
    secret: str = field(default="", repr=False)

    @classmethod
    def read(cls, value: object) -> Replica:
        fields = Fields(value, "replica")
        stages = tuple(Stage.read(stage) for stage in fields.listing("stages", limits.MAX_STAGES))
        return cls(stages, fields.text("secret", limits.MAX_SECRET) if "secret" in fields else "")

    def to_fields(self) -> dict[str, Any]:
        return {"stages": [stage.to_fields() for stage in self.stages], "secret": self.secret or None}
