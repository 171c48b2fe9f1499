"""What a switch of the policy would do, as the group stands now (the contract, *Switching*).

The one rule: nothing changes. The policies themselves are asked what they would decide: of a worker that computes, at
its next pull, when its iteration has had its end and all others are where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from leeway.protocol import limits
from leeway.protocol.reasons import Reason
from leeway.protocol.tuning import PolicyState
from leeway.ps.core.decisions import Park
from leeway.ps.core.policies.switching import Switching
from leeway.ps.core.rounds import RoundState

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from leeway.ps.core.groups import Group
    from leeway.ps.core.policies.policy import Policy, View

# What no policy decides.
_WHATEVER_THE_POLICY: Final = (Reason.NO_PARAMETERS, Reason.MIN_VERSION, Reason.OWN_UPDATE)


@dataclass(frozen=True, slots=True)
class Preview:
    """`changes`: whether it is another policy than the one in force, or on its way. `round`: the open one, with the
    number of updates `held`, and how many it waits for under the policy that is asked for; `needed` 0: it closes at
    once, or after the grace. `late`: who is still computing for it, and may come too late.

    Of the live workers `let_go` wait now and would not any more; `will_wait` wait on, or will at their next pull, and
    `waiting_for` are those for whom.
    """

    policy: PolicyState
    changes: bool = True
    round: int | None = None
    held: int = 0
    needed: int = 0
    late: Sequence[str] = ()
    let_go: Sequence[str] = ()
    will_wait: Sequence[str] = ()
    waiting_for: Sequence[str] = ()

    def to_fields(self) -> dict[str, Any]:
        """JSON-ready; of each list of ranks the first, and how many there are."""
        return {
            "policy": self.policy.to_fields(),
            "changes": self.changes,
            "round": self.round,
            "held": self.held,
            "needed": self.needed,
            "late": _named(self.late),
            "let_go": _named(self.let_go),
            "will_wait": _named(self.will_wait),
            "waiting_for": _named(self.waiting_for),
        }


def preview(group: Group, wanted: Policy) -> Preview:
    """`wanted`: a policy that the group can be switched to."""
    if wanted == group.policy.opened():
        return Preview(group.policy_state(), changes=False)
    if group.policy.has_rounds and wanted.has_rounds:
        return _of_other_rounds(group, wanted)
    way = wanted.adopted(group)
    at = way.at if isinstance(way, Switching) else None
    let_go, will_wait, waiting_for = _sorted_out(group, way)
    is_open = group.rounds.state is RoundState.OPEN
    return Preview(
        PolicyState(group.name, wanted.terms, at),
        round=group.rounds.number if is_open else None,
        held=len(group.rounds.held) if is_open else 0,
        let_go=let_go,
        will_wait=will_wait,
        waiting_for=waiting_for,
    )


def _of_other_rounds(group: Group, wanted: Policy) -> Preview:
    """The open round goes on under it."""
    rounds, quorum = group.rounds, wanted.terms.quorum
    state, awaited = PolicyState(group.name, wanted.terms), tuple(wanted.awaited(group))
    if rounds.state is not RoundState.OPEN:
        return Preview(state, waiting_for=awaited)
    missing = tuple(rounds.missing)
    may_be_late = quorum is not None and quorum < len(missing) + len(rounds.held)
    return Preview(
        state,
        round=rounds.number,
        held=len(rounds.held),
        needed=wanted.needed(group, len(missing)),
        late=missing if may_be_late else (),
        waiting_for=awaited,
    )


def _sorted_out(group: Group, way: Policy) -> tuple[list[str], list[str], list[str]]:
    """Who is let go, who waits, and for whom, in natural order."""
    let_go, will_wait = [], []
    awaited: set[str] = set()
    later = _Later(group)
    for member in group.roster:
        rank = member.rank
        waits = group.waiting.of(member)
        if waits and group.pulls.why(waits).reason in _WHATEVER_THE_POLICY:
            continue
        decision = way.pull(group if waits else later.than(rank), rank)
        if isinstance(decision, Park):
            will_wait.append(rank)
            # All wait for the same ones, but for oneself: two of them name everybody.
            if len(will_wait) <= 2:
                awaited.update(decision.waiting_for)
        elif waits:
            let_go.append(rank)
    return let_go, will_wait, [rank for rank in group.ranks() if rank in awaited]


class _Later:
    """The group, as it is when one of its workers has come to the end of its iteration."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._rank = ""
        self._clock = 0
        self._behind: dict[int, tuple[list[str], frozenset[str]]] = {}

    def than(self, rank: str) -> View:
        progress = self._group.roster.progress(rank)
        self._rank, self._clock = rank, progress.clock + bool(progress.grants)
        # The rest of what a policy may see is the group's own.
        return cast("View", self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    @property
    def min_clock(self) -> int:
        if self._group.slowest() != (self._rank,):
            return self._group.min_clock
        others = (self._group.clock_of(rank) for rank in self._group.ranks() if rank != self._rank)
        return min([self._clock, *others])

    def clock_of(self, rank: str) -> int:
        return self._clock if rank == self._rank else self._group.clock_of(rank)

    def slowest(self) -> tuple[str, ...]:
        return tuple(self.behind(self.min_clock + 1))

    def behind(self, clock: int) -> list[str]:
        if clock not in self._behind:
            found = self._group.behind(clock)
            self._behind[clock] = found, frozenset(found)
        found, ranks = self._behind[clock]
        if self._rank not in ranks or self._clock < clock:
            return found
        return [rank for rank in found if rank != self._rank]


def _named(ranks: Collection[str]) -> dict[str, Any]:
    return {"ranks": list(ranks)[: limits.MAX_NAMED_WAITERS], "count": len(ranks)}
