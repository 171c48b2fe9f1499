"""The policy and the optimizer of a group are changed while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.protocol.fields import Fields
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.ranks import DEFAULT_GROUP

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Change the policy of a live group."""

    terms: PolicyTerms
    group: str = DEFAULT_GROUP

    def __str__(self) -> str:
        return f"policy {self.terms}"

    @classmethod
    def read(cls, fields: Fields, group: str) -> SetPolicy:
        fields.only("mode", "staleness", "quorum", "grace_seconds")
        return cls(PolicyTerms.read(fields, wanted=True), group)

    def to_fields(self) -> dict[str, Any]:
        return {name: value for name, value in self.terms.to_fields().items() if value is not None}


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
        return fields if (self.terms.quorum, self.terms.grace_seconds) == (None, None) else fields | of_a_quorum


@dataclass(frozen=True, slots=True)
class SetOptimizer:
    """From the next step decided on, the group's optimizer goes by these settings, as plain data.

    A peer names those that are to change; the machine is told all of them.
    """

    group: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"optimizer of {self.group}: {', '.join(f'{name} {value}' for name, value in self.settings.items())}"


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
