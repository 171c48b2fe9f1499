"""Opens and closes the rounds of a group, and decides on the step that each comes to.

Who is in a round and when it may close is the policy's to say; here stands what follows from it for the group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.ps.core.effects import Apply, Drop, RoundClosed, RoundOpened
from leeway.ps.core.in_flight import RoundStep
from leeway.ps.core.rounds import RoundState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.ps.core.progress import Progress, Record
    from leeway.ps.core.situation import Situation


class RoundKeeper:
    def __init__(self, group: Situation) -> None:
        self._group = group

    @property
    def deadline(self) -> float | None:
        """When the open round may close by the mere passing of time."""
        group = self._group
        return group.policy.deadline(group) if group.rounds.state is RoundState.OPEN else None

    def open_if_due(self) -> Sequence[str]:
        """A round opens as soon as it may. Returns whom the first one of a quorum has left behind."""
        group = self._group
        if group.rounds.state is RoundState.WAITING and group.live_workers:
            # Whoever is left may all have been passed over.
            group.rounds.number = max(group.rounds.number, group.min_clock)
        members = self._members()
        if not members:
            return ()
        policy = group.policy.opened()
        begins = policy is not group.policy
        if begins:
            group.put_in_force(policy)
        group.started = True
        group.rounds.open(members)
        group.emit(RoundOpened(group.name, group.rounds.number, tuple(group.rounds.members)))
        return group.behind(group.rounds.number) if begins else ()

    def _members(self) -> Sequence[str]:
        """Of a round that opens now; nobody: none does."""
        group = self._group
        if group.rounds.state is not RoundState.WAITING or group.in_flight or not group.live_workers:
            return ()
        if group.is_over_at(group.rounds.number):
            return ()
        return group.policy.members(group)

    def close_if_due(self, now: float) -> tuple[str, ...]:
        """The open round closes as soon as it may. Returns its members who are late."""
        group = self._group
        if group.rounds.state is not RoundState.OPEN or not group.policy.may_close(group, now):
            return ()
        late = tuple(group.rounds.missing)
        self.close(late)
        return late

    def close(self, late: tuple[str, ...] = ()) -> None:
        """`late`: whose pushes come too late for it; on the way to another policy they take effect on arrival."""
        group = self._group
        number, kind = group.rounds.number, group.rounds.kind
        updates = group.rounds.close(group.least_updates)
        contributors = tuple(update.rank for update in updates)
        samples = sum(update.samples for update in updates)
        too_few = 0 < len(updates) < group.least_updates
        needed = group.least_updates if too_few else None
        group.emit(RoundClosed(group.name, number, contributors, samples, needed, late))
        contributions = self._contributions(number, contributors)
        if too_few:
            group.emit(Drop(tuple(body for update in updates for body in update.bodies)))
            for _, record in contributions:
                record.too_few = True
        elif updates:
            assert kind is not None
            version = group.decide(RoundStep(tuple(record for _, record in contributions)))
            for progress, _ in contributions:
                progress.owed = version
            group.emit(Apply(group.name, version, kind, updates, aggregated=True, live=group.live_workers))

    def _contributions(self, number: int, ranks: tuple[str, ...]) -> list[tuple[Progress, Record]]:
        """Of the contributors that live on. A new life of a rank owes nothing to the old one's update."""
        group = self._group
        members = [member for rank in ranks if (member := group.roster.of_rank(rank))]
        progresses = [member.groups[group.name] for member in members]
        return [
            (progress, progress.record) for progress in progresses if progress.record and progress.clock == number + 1
        ]

    def stepped(self, step: RoundStep, *, failed: bool) -> None:
        """The version of a round is published. `failed`: with the values of the version before it."""
        for record in step.records:
            record.step_failed = failed
        # After a switch the rounds are others.
        if self._group.rounds.state is RoundState.APPLYING:
            self._group.rounds.finish()
