"""How a group stands: its policy, members, rounds, keys and versions; all that its decisions are taken from.

The one rule: nothing is decided here. A version's number is given when the decision falls (`decided`); readers see it
when the arithmetic is done (`published`). Invariant: published <= decided, and `in_flight` holds exactly the numbers
between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.schema import Sizes
from leeway.protocol.tuning import PolicyState
from leeway.ps.core import policies
from leeway.ps.core.effects import Drop, Switched
from leeway.ps.core.norms import Norms
from leeway.ps.core.policies.switching import Switching
from leeway.ps.core.roster import Roster
from leeway.ps.core.rounds import Rounds
from leeway.ps.core.waiting import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.protocol.tensors import TensorSpec
    from leeway.ps.core.effects import Effect
    from leeway.ps.core.in_flight import InFlight
    from leeway.ps.core.lives import Incarnation
    from leeway.ps.core.membership import Membership
    from leeway.ps.core.policies.policy import Policy
    from leeway.ps.core.progress import Progress
    from leeway.ps.core.quarantine import Quarantines
    from leeway.ps.core.settings import GroupSettings


class Situation:
    def __init__(
        self,
        settings: GroupSettings,
        *,
        epoch: int,
        workers: int,
        until: int | None,
        emit: Callable[[Effect], None],
        membership: Membership,
        lose: Callable[[Incarnation, str], None],
        quarantines: Quarantines,
    ) -> None:
        name = self.name = settings.name
        self.membership = membership
        # Ends a life that cannot go on, for a reason in words.
        self.lose = lose
        self.quarantines = quarantines
        self.norms = Norms(settings.max_update_norm, settings.max_update_norm_ratio)
        # The patterns of the keys that it holds.
        self.keys = settings.keys
        # What its aggregation rule asks for.
        self.least_updates, self.needs_rounds = settings.least_updates, settings.needs_rounds
        self.policy = policies.make(settings.terms)
        self.epoch = epoch
        self.workers = workers
        self.until = until if settings.until is None else settings.until or None
        # What a joiner is told of it (membership.GroupState).
        self.own_until = settings.until
        # Why nobody goes on here, whatever the clocks say; None: they do.
        self.over: str | None = None
        self.emit = emit
        self.rounds = Rounds()
        # Invariant: `sizes` is what `specs` take.
        self.specs: dict[str, TensorSpec] = {}
        self.sizes = Sizes()
        # No key is added any more: an update has been accepted; a worker has offered all of them (`whole`).
        self.schema_closed = False
        self.whole = False
        # The keys are those of a file of initial values, and no worker has said yet what they are in its model.
        self.from_file = False
        # What the question of a stage has declared, all of which has to be there before anything is read.
        self.declared: dict[str, TensorSpec] | None = None
        # Which values those are that are there of them (`Offer.holds`).
        self.holds = ""
        # Invariant: no worker is granted a version before this one, in which tensors had other names or kinds.
        self.named_from = 0
        self.started = False
        # The ranks that have ever joined, until `workers` of them have: whether they still live does not matter.
        self.arrived: set[str] = set()
        self.assembled = False
        self.decided = 0
        self.published = 0
        # Whether there is anything to read: a first offer whose step failed leaves a version without keys.
        self.readable = False
        self.in_flight: dict[int, InFlight] = {}
        self.roster = Roster(name)
        self.waiting = WaitingRoom(name, emit)
        # The versions that are kept for the stages of replicas: those that a replica which is computing was granted.
        self.pinned: tuple[int, ...] = ()

    # What a policy may see (policies.policy.View).

    @property
    def min_clock(self) -> int:
        return self.roster.clocks.minimum

    @property
    def max_clock(self) -> int:
        return self.roster.clocks.maximum

    @property
    def live_workers(self) -> int:
        return len(self.roster)

    @property
    def workers_to_start(self) -> int:
        return 1 if self.started else self.workers

    @property
    def stepping(self) -> bool:
        return bool(self.in_flight)

    @property
    def furthest_granted(self) -> int:
        members = [member.groups[self.name] for member in self.roster]
        return max((progress.clock + bool(progress.grants) for progress in members), default=self.min_clock)

    def clock_of(self, rank: str) -> int:
        return self.roster.progress(rank).clock

    def ranks(self) -> list[str]:
        return self.roster.ranks()

    def slowest(self) -> tuple[str, ...]:
        return self.roster.slowest()

    def behind(self, clock: int) -> list[str]:
        return self.roster.behind(clock)

    # What others ask.

    @property
    def switching_at(self) -> int | None:
        """On the way to a policy with rounds: the clock at which its first round opens."""
        return self.policy.at if isinstance(self.policy, Switching) else None

    def policy_state(self) -> PolicyState:
        """The policy that was asked for last, and whether it is in force yet."""
        return PolicyState(self.name, self.policy.opened().terms, self.switching_at)

    @property
    def ends(self) -> bool:
        """Whether it has an end of its own to come to."""
        return self.until is not None or self.over is not None

    @property
    def done(self) -> bool:
        """Everybody has reached the end, and all of it is applied."""
        if self.in_flight or self.rounds.held:
            return False
        if self.over is not None:
            return not any(member.groups[self.name].computing for member in self.roster)
        return self.until is not None and self.min_clock >= self.until

    @property
    def deserted(self) -> bool:
        """Nobody is in it, and all that was handed in is applied."""
        return not (self.roster or self.in_flight or self.rounds.held)

    def is_over_at(self, clock: int) -> str | None:
        """Why nobody computes the iteration of this clock any more; None: it is to be computed."""
        if self.over is None and self.until is not None and clock >= self.until:
            return f"the run ends at clock {self.until}"
        return self.over

    # What is decided in more than one place is carried out here.

    def decide(self, step: InFlight) -> int:
        """The number of the version that this step makes."""
        self.decided += 1
        self.in_flight[self.decided] = step
        return self.decided

    def put_in_force(self, policy: Policy) -> None:
        self.policy = policy
        self.emit(Switched(self.name, policy.terms, self.decided))

    def drop_staged(self, progress: Progress) -> None:
        if progress.staged:
            self.emit(Drop(tuple(part.request for part in progress.staged.values())))
            progress.staged.clear()
