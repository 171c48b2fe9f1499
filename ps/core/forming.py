"""A replica of which not all stages are there yet.

The stages of one rank gather here until each has its process; then its life begins. Those of a life that has ended are
expected back for as long as their leases run: until then whoever comes anew has to fit them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from leeway.protocol.replicas import Place
    from leeway.ps.core.lives import Seat


@dataclass(slots=True)
class Gathered:
    """The join of a stage that waits for the others."""

    seat: Seat
    wait_seconds: float
    until: float


@dataclass(slots=True)
class Forming:
    """`seats`: the stages that are there; `expected`: those of the life before that are not back yet."""

    stages: int
    plan: Mapping[str, str]
    group: str
    seats: dict[int, Seat] = field(default_factory=dict)
    expected: dict[int, Seat] = field(default_factory=dict)
    waiting: dict[int, Gathered] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(stage for stage in range(self.stages) if stage not in self.seats)

    @property
    def deserted(self) -> bool:
        return not (self.seats or self.expected)

    def difference(self, place: Place, group: str) -> str | None:
        """What of this newcomer's is otherwise than the others have it, in words."""
        others = {stage for stage in (*self.seats, *self.expected) if stage != place.stage}
        if not others:
            return None
        return difference(self.stages, self.plan, place) or (
            None if group == self.group else f"group is {group}, and {self.group} in the others"
        )

    def is_otherwise(self, place: Place, group: str) -> bool:
        return (self.stages, self.plan, self.group) != (place.stages, place.plan, group)

    def requests_of(self, stage: int) -> list[int]:
        return [request for request, gathered in self.waiting.items() if gathered.seat.stage == stage]


def difference(stages: int, plan: Mapping[str, str], place: Place) -> str | None:
    """What of this place's is otherwise than in the other stages, in words."""
    if place.stages != stages:
        return f"it is one of {place.stages} stages, and the others are of {stages}"
    names = sorted({*plan, *place.plan})
    found = [
        f"{name} is {place.plan.get(name, 'not given')}, and {plan.get(name, 'not given')} in the others"
        for name in names
        if plan.get(name) != place.plan.get(name)
    ]
    return "; ".join(found) or None


def owned_twice(place: Place, others: Iterable[Seat]) -> str | None:
    """A key that another stage pushes too, in words."""
    for seat in others:
        assert seat.place is not None
        if seat.stage != place.stage and (shared := set(place.owned or ()).intersection(seat.place.owned or ())):
            return f"{min(shared)} is owned by stage {seat.stage}, and stage {place.stage} says that it owns it too"
    return None
