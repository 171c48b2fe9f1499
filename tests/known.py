"""What is known of a run by its history: the facts of all of it, and of a server process how each group stands.

The one rule: nothing is believed because the server says so. It is kept by `tests/guarantees.py`, and asked by all that
judge.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median

# Of the times in a history the seventh decimal is not there.
ROUNDING_SECONDS = 2e-6


class Violated(AssertionError):
    """A guarantee is broken; the text says which."""


def must(condition, guarantee, **facts):
    if not condition:
        raise Violated(f"{guarantee}: {', '.join(f'{name}={value}' for name, value in facts.items())}")


@dataclass
class Facts:
    """What happened. An update's name is (epoch, group, rank, incarnation, clock)."""

    epochs: list = field(default_factory=list)
    # By name: the version it went into, once that was published; and what its worker was told.
    applied: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)
    # Updates that were accepted and whose step failed, or that were too few for their rule.
    unmade: set = field(default_factory=set)
    # Updates told `held` whose round had not been closed at the end of the record.
    held: set = field(default_factory=set)
    # The newest update of each worker in a state that a server went on from.
    saved: set = field(default_factory=set)
    # Updates that were acknowledged and not in the checkpoint that a killed server went on from.
    lost: set = field(default_factory=set)
    # (t, rank, incarnation, reason) of every life that ended, (t, rank, incarnation) of every one that began.
    ended: list = field(default_factory=list)
    began: list = field(default_factory=list)
    # (t, rank, clock, lag, version) of every answered pull of a worker.
    granted: list = field(default_factory=list)
    staleness: list = field(default_factory=list)
    modes: list = field(default_factory=list)
    finished: bool = False

    @property
    def largest_lag(self):
        return max(lag for _, _, _, lag, _ in self.granted)


@dataclass
class Group:
    """Of a server process, what is known of one group. Clocks, grants and the like are by rank, of the live ones.

    `next`: the round that opens next. `passed`: the clock from which a worker was moved on, until it pushes again;
    `asked_from`: until its clock goes on by a push, for that is how long a pull of before may wait.
    `last`: the newest accepted update. `arrivals`: when the contributions of the open round came. `waiting`: the parked
    pulls of each, by their requests: of a replica each stage's. `named_from`: nobody is granted a version before this
    one. `committed`: how many updates of a rank were accepted, over all its lives. `pinned`: versions that are kept.
    """

    mode: str
    bound: int | None
    published: int
    min_clock: int
    round: int
    next: int
    switching_at: int | None = None
    # Its own end; `over`: the other groups have come to theirs, and nobody begins an iteration here.
    until: int | None = None
    over: bool = False
    quorum: int | None = None
    grace: float | None = None
    # Whether the next round is the first behind a switch.
    first: bool = False
    # Whether anybody was ever granted, or a round opened; who has joined, as long as that are fewer than `workers`.
    started: bool = False
    arrived: set = field(default_factory=set)
    workers: int = 0
    least: int = 1
    # The versions that bring keys, with those keys; the keys that are there, and those that stages have declared.
    offers: dict = field(default_factory=dict)
    keys: set = field(default_factory=set)
    declared: set | None = None
    readable: bool = False
    arrivals: list = field(default_factory=list)
    gaps: deque = field(default_factory=lambda: deque(maxlen=64))
    passed: dict = field(default_factory=dict)
    asked_from: dict = field(default_factory=dict)
    last: dict = field(default_factory=dict)
    clocks: dict = field(default_factory=dict)
    grants: dict = field(default_factory=dict)
    owed: dict = field(default_factory=dict)
    seen: dict = field(default_factory=dict)
    missing: set = field(default_factory=set)
    held: dict = field(default_factory=dict)
    open: bool = False
    stopped: bool = False
    waiting: dict = field(default_factory=dict)
    committed: dict = field(default_factory=dict)
    pinned: tuple = ()
    named_from: int = 0
    # The version of the last round, until it is published.
    applying: int | None = None
    # Decided and not published: by version, the updates in it.
    in_flight: dict = field(default_factory=dict)

    @classmethod
    def restored(cls, saved, of_group, settings, now):
        """As it stands behind a start, but for its workers."""
        mode = "switching" if saved["switching_at"] is not None else saved["mode"]
        number, is_open = saved["round"], saved["missing"] is not None
        group = cls(mode, saved["staleness"], saved["version"], saved["min_clock"], number, number + is_open)
        group.switching_at, group.quorum, group.grace = (
            saved[name] for name in ("switching_at", "quorum", "grace_seconds")
        )
        group.missing, group.open = set(saved["missing"] or ()), is_open
        group.arrivals = [now] * len(saved["held"])
        group.started, group.arrived = saved["started"], set(saved["arrived"])
        group.keys = {spec[0] for spec in saved["specs"]}
        if saved.get("declared") is not None:
            group.declared = {spec[0] for spec in saved["declared"]}
        group.are_there(set())
        group.workers = 0 if saved["assembled"] else settings["workers"]
        group._are_set(of_group, settings)
        return group

    @classmethod
    def made(cls, of_group, settings):
        """A part that a join makes."""
        group = cls(of_group["mode"], of_group["staleness"], 0, 0, 0, 0)
        group.quorum, group.grace, group.workers = of_group["quorum"], of_group["grace_seconds"], settings["workers"]
        group._are_set(of_group, settings)
        return group

    def _are_set(self, of_group, settings):
        self.least = of_group["least_updates"]
        self.until = (settings["until"] if of_group["until"] is None else of_group["until"]) or None

    @property
    def all_have_joined(self):
        return len(self.arrived) >= self.workers

    @property
    def decided(self):
        return max(self.in_flight, default=self.published)

    @property
    def deadline(self):
        """When the open round closes though some are missing; None: not before they come."""
        enough = min(self.quorum or 0, len(self.arrivals) + len(self.missing))
        if self.stopped or not self.open or not enough or len(self.arrivals) < enough:
            return None
        grace = self.grace
        if grace is None and self.gaps:
            usual = median(self.gaps)
            grace = usual + 3 * median(abs(gap - usual) for gap in self.gaps)
        return None if grace is None else self.arrivals[enough - 1] + grace

    def is_behind(self, rank):
        """Whether the round that this worker would take part in has closed without it."""
        clock = self.clocks[rank]
        return self.mode == "sync" and clock < self.next and not (self.open and clock == self.round)

    def has_passed(self, rank, clock):
        return self.passed.get(rank, clock + 1) <= clock < self.clocks[rank]

    def moved(self):
        self.min_clock = max(self.min_clock, min(self.clocks.values(), default=self.min_clock))

    def forget(self, rank):
        """Its life has ended, or has left this group."""
        of_lives = (self.clocks, self.grants, self.owed, self.seen, self.last, self.passed, self.asked_from)
        for known in (*of_lives, self.waiting):
            known.pop(rank, None)
        self.missing.discard(rank)
        self.moved()

    def are_there(self, keys):
        """These too; nothing is read before all that are declared are."""
        self.keys |= keys
        self.readable = bool(self.keys) and (self.declared is None or self.declared <= self.keys)

    # The end.

    @property
    def done(self):
        """Whether everybody has come to the end here, and all of it is applied."""
        if self.in_flight or self.held:
            return False
        if self.over:
            return not any(self.grants.values())
        return self.until is not None and self.min_clock >= self.until

    @property
    def deserted(self):
        """Whether nobody is in it, and all that was handed in is applied."""
        return not (self.clocks or self.in_flight or self.held)

    def come_to_the_end(self):
        """Who computes is waited for, nobody else."""
        self.over = True
        self.missing = {rank for rank in self.missing if self.grants.get(rank)}

    # Who waits for whom.

    def waits(self, rank, request):
        self.waiting.setdefault(rank, set()).add(request)

    def waits_no_more(self, request):
        for requests in self.waiting.values():
            requests.discard(request)
        self.waiting = {rank: requests for rank, requests in self.waiting.items() if requests}

    def waits_for(self, rank):
        """Whose pushes the parked pull of this rank waits for; nobody's: for something else."""
        clock = self.clocks[rank]
        if not self.readable or self.published < max(self.owed.get(rank, 0), self.named_from):
            return set()
        if self.mode == "switching":
            return set() if clock < self.switching_at else self._behind_the_switch()
        if self.mode == "sync":
            if self.open:
                return set() if rank in self.missing else set(self.missing)
            return set() if self.quorum or self.applying is not None else self._below(self.next)
        if self.mode == "async" or not self.all_have_joined or clock - self.min_clock <= self.bound:
            return set()
        return self._below(self.min_clock + 1)

    def _below(self, clock):
        return {rank for rank, its in self.clocks.items() if its < clock}

    def _behind_the_switch(self):
        behind = self._below(self.switching_at)
        there = len(self.clocks) - len(behind)
        return set() if self.quorum is not None and there >= self.quorum else behind

    @property
    def awaited(self):
        """All that wait for others wait for the same ones."""
        return next((ranks for rank in self.waiting if (ranks := self.waits_for(rank))), set())

    @property
    def to_come(self):
        """How many of them have to come before anybody goes on."""
        awaited = len(self.awaited)
        if self.quorum is None or self.mode not in ("sync", "switching"):
            return awaited
        if self.mode == "switching":
            return min(awaited, self.quorum - (len(self.clocks) - awaited))
        lacking = min(self.quorum - len(self.arrivals), awaited)
        return lacking if lacking > 0 else awaited if self.deadline is None else 0


def left_waiting(groups, one_after_another):
    """The ranks that wait for each other for ever: everybody else acts, and lets others act, until nobody can.

    `one_after_another`: the ranks that ask for nothing while they wait.
    """
    standing = {
        rank: group for group in groups for rank in group.waiting if rank in one_after_another and group.waits_for(rank)
    }
    while True:
        freed = {rank for rank, group in standing.items() if len(group.awaited - standing.keys()) >= group.to_come}
        if not freed:
            return standing.keys()
        standing = {rank: group for rank, group in standing.items() if rank not in freed}
