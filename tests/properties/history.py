"""The history of one group, and all that can be counted from it.

The one rule: nothing is kept that can be counted. It is slow, and there is nothing in it to get out of step.
"""

from typing import Any

from leeway.protocol.ranks import natural
from tests.properties.facts import Decision, Grant, Life, Moved, Part, Round, Update, Waiter

REMEMBERED = 16
GRANTS = 16


class History:
    def __init__(
        self,
        policy,
        *,
        workers,
        lease,
        until=None,
        longest=None,
        least=1,
        rounds_only=False,
        most=None,
        ratio=None,
        after=3,
    ) -> None:
        self.mode, self.bound, self.quorum, self.grace = policy
        self.switching_at: int | None = None
        self.workers, self.lease, self.until, self.longest = workers, lease, until, longest
        # So many updates must be in a round; and whether the rule wants rounds.
        self.least, self.rounds_only = least, rounds_only
        # How large updates may be, and how many larger ones of a rank keep it out.
        self.most, self.ratio, self.after = most, ratio, after
        self.epoch = 1
        self.lives: list[Life] = []
        self.grants: list[Grant] = []
        self.updates: list[Update] = []
        # What is usual is counted from this update on.
        self.usual_from = 0
        # What was said for or against each rank: an update is accepted, or too large; an admin keeps it out, or not.
        self.conduct: list[tuple[str, str]] = []
        self.moves: list[Moved] = []
        # The pace is that of the updates from this one on.
        self.paced_from = 0
        self.parts: list[Part] = []
        self.decisions: list[Decision] = []
        self.published = 0
        # Of the present stretch of sync, which began with `first_round`, and those of the stretches before.
        self.rounds: list[Round] = []
        self.first_round = 0
        self.old_rounds: list[Round] = []
        self.specs: dict[str, Any] = {}
        self.whole = False
        self.waiters: list[Waiter] = []
        self.kept_minimum = 0
        self.finished = False
        self.now = 0.0
        self.stopping = False

    # Counting from the facts.

    def live(self) -> list[Life]:
        return sorted((life for life in self.lives if life.ended is None), key=lambda life: natural(life.rank))

    def is_final(self, update: Update) -> bool:
        return update.number is None or update.number <= self.published

    def has_failed(self, update: Update) -> bool:
        """Whether the step that was to apply it has failed."""
        return any(decision.failed and update in decision.updates for decision in self.decisions)

    def something_to_read(self) -> bool:
        return any(one.offer is not None and one.number <= self.published and not one.failed for one in self.decisions)

    def last(self, life: Life) -> Update | None:
        mine = [update for update in self.updates if update.life is life]
        return mine[-1] if mine else None

    def clock(self, life: Life) -> int:
        moved = [move.to for move in self.moves if move.life is life]
        pushed = [update.next_clock for update in self.updates if update.life is life and self.is_final(update)]
        return max([life.start, *moved, *pushed])

    def has_passed(self, life: Life, clock: int) -> bool:
        """Whether it was moved on from this iteration, and has not pushed since: it may not have heard of that."""
        moves = [move for move in self.moves if move.life is life and move.last is self.last(life)]
        return any(move.clock <= clock < self.clock(life) for move in moves)

    def min_clock(self) -> int:
        self.kept_minimum = max([self.kept_minimum, *([min(map(self.clock, self.live()))] if self.live() else [])])
        return self.kept_minimum

    def behind(self, clock: int) -> tuple[str, ...]:
        return tuple(life.rank for life in self.live() if self.clock(life) < clock)

    def granted(self, life: Life) -> list[Grant]:
        """Of the life's present iteration, each (version, round) once, the newest last."""
        different: dict[tuple[int, int | None], Grant] = {}
        for grant in self.grants:
            if grant.life is life and grant.clock == self.clock(life):
                different.setdefault((grant.version, grant.round), grant)
        return list(different.values())[-GRANTS:]

    def staged(self, life: Life) -> list[Part]:
        return [part for part in self.parts if part.life is life]

    @property
    def open_round(self) -> Round | None:
        return self.rounds[-1] if self.rounds and not self.rounds[-1].closed else None

    def contributions(self, group_round: Round) -> list[Update]:
        return [update for update in self.updates if update.round is group_round]

    def missing(self, group_round: Round) -> list[Life]:
        done = [update.life for update in self.contributions(group_round)]
        return [life for life in group_round.members if life.ended is None and life not in done]

    def in_flight(self) -> list[Decision]:
        return [decision for decision in self.decisions if decision.number > self.published]

    def next_round(self) -> int:
        """The number of the round that a joiner enters."""
        return max(self.first_round, self.rounds[-1].number + 1 if self.rounds else 0)

    def owed(self, life: Life) -> int:
        """The newest version with an update of this life in it."""
        return max(
            (one.number for one in self.decisions if any(update.life is life for update in one.updates)), default=0
        )

    def remembered(self, rank: str) -> list[Life]:
        of_rank = [life for life in self.lives if life.rank == rank]
        ended = [life for life in of_rank if life.ended is not None]
        # Lives end in the order in which they began: a rank has one at a time.
        return ended[-REMEMBERED:] + [life for life in of_rank if life.ended is None]
