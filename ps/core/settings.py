"""What a machine is started with: settings of the run and of each group, as far as decisions depend on them."""

from __future__ import annotations

from dataclasses import dataclass, field

from leeway.protocol.capacity import DEFAULT_CAPACITY, Capacity
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.ranks import DEFAULT_GROUP


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """`keys`: shell patterns of the keys that this group holds; the first group that matches has the key.

    `least_updates`: a round with fewer makes no step, its aggregation rule could not. `needs_rounds`: that rule means
    nothing where each update is a step of its own, so no such policy can be switched to.
    """

    terms: PolicyTerms = field(default=PolicyTerms("sync"))
    name: str = DEFAULT_GROUP
    keys: tuple[str, ...] = ("*",)
    least_updates: int = 1
    needs_rounds: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """`workers`: how many ranks must have joined before anybody computes. `until`: the clock at which the run ends.

    `capacity`: what a group must not exceed; told to those who join.
    """

    groups: tuple[GroupSettings, ...] = (GroupSettings(),)
    workers: int = 1
    lease_seconds: float = 10.0
    max_iteration_seconds: float | None = None
    until: int | None = None
    capacity: Capacity = DEFAULT_CAPACITY
