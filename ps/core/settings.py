"""What a machine is started with: settings of the run and of each group, as far as decisions depend on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from leeway.protocol import parts
from leeway.protocol.capacity import DEFAULT_CAPACITY, Capacity
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.ranks import DEFAULT_GROUP

if TYPE_CHECKING:
    from leeway.ps.core.endings import Goal, Plateau


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """`keys`: shell patterns of the keys that this group holds; the first group that matches has the key.

    `least_updates`: a round with fewer makes no step, its aggregation rule could not. `needs_rounds`: that rule means
    nothing where each update is a step of its own, so no such policy can be switched to. `until`: the clock at which it
    is complete, None for the run's; 0: it has none, and goes on as long as others do. `max_update_norm`,
    `max_update_norm_ratio`: see `norms`.
    """

    terms: PolicyTerms = field(default=PolicyTerms("sync"))
    name: str = DEFAULT_GROUP
    keys: tuple[str, ...] = ("*",)
    least_updates: int = 1
    needs_rounds: bool = False
    until: int | None = None
    max_update_norm: float | None = None
    max_update_norm_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """`workers`: how many ranks must have joined before anybody computes. `until`: the clock at which the run ends, in
    every group that does not say otherwise; `until_seconds`, `until_metric` and `until_flat` end it in all of them.

    `capacity`: what a group must not exceed; told to those who join. `quarantine_after`: so many refused
    updates of a rank in a row put it in quarantine.
    """

    groups: tuple[GroupSettings, ...] = (GroupSettings(),)
    workers: int = 1
    lease_seconds: float = 10.0
    max_iteration_seconds: float | None = None
    until: int | None = None
    capacity: Capacity = DEFAULT_CAPACITY
    until_seconds: float | None = None
    until_metric: Goal | None = None
    until_flat: Plateau | None = None
    quarantine_after: int = 3

    def part(self, name: str) -> GroupSettings:
        """Of a group that a worker makes: the default group's, and the keys `NAME/*`."""
        default = next((group for group in self.groups if group.name == DEFAULT_GROUP), self.groups[-1])
        return replace(default, name=name, keys=(parts.pattern(name),), until=None)
