"""A schedule is a list of moves; `Both` plays it to the machine and to the oracle, and compares after every event.

A move says roughly what happens ("w1 pushes"); what exactly is sent follows from where the oracle says the worker
stands. So almost every schedule makes progress, any part of one is a schedule too (they shrink well), and every
message that was ever sent can be sent again at any time: duplicates and reordering are one move.
"""

import json
from dataclasses import dataclass

from leeway.protocol.barriers import Barrier
from leeway.protocol.lives import Life as Named
from leeway.protocol.membership import Heartbeat, Join, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.quarantine import Quarantine, Release
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.tuning import PolicyState, SetPolicy
from leeway.protocol.versions import Version
from leeway.ps.core.describe import status
from leeway.ps.core.effects import Adopt, Answered, Apply, Initialize
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Published, Stop, Tick
from leeway.ps.core.machine import Machine
from leeway.ps.core.saved import restore, save
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.watching.history import plain
from tests.guarantees import Checker, Violated
from tests.properties import told
from tests.properties.oracle import Oracle

# No sum of these steps meets a lease, a wait or the limit of an iteration exactly.
WAITS_SECONDS = (0, 1, 2, 3, 5, 8, 12, 20)
LEASE_SECONDS = 10.5
QUORUMS = (
    *(("sync", None, 1, 0.0), ("sync", None, 1, 2.5), ("sync", None, 2, 0.0), ("sync", None, 2, 2.5)),
    *(("sync", None, 2, None), ("sync", None, 3, 1.0), ("sync", None, None, None), ("sync", None, 0, None)),
)
POLICIES = (("sync", None), ("async", None), ("ssp", 0), ("ssp", 1), ("ssp", 2), ("ssp", 5), ("ssp", -1), ("x", None))
SPECS = tuple(TensorSpec(f"k{place}", (2,), "float32", Kind.TRAINABLE) for place in range(3))
CONFLICT = TensorSpec("k0", (3,), "float32", Kind.TRAINABLE)
# Parked requests end; 0.25 s keeps their ends apart from everything else.
PULL_WAITS_SECONDS = (30.25, 30.25, None, 4.25)


# A few are far beyond what is usual.
NORMS = (1.0, 2.0, 1.5, 50.0, 1.0, 2.5, 0.0, 3.0, 4.0, 1.0, 5.0)


def norm_of(push: Push) -> float:
    """The same each time that it is sent."""
    return NORMS[
        (3 * push.clock + push.samples + 5 * push.part + len(push.keys) + 2 * int(push.life.rank[1:])) % len(NORMS)
    ]


@dataclass(frozen=True)
class Move:
    """`n` from 0 to 7 chooses among the forms of the move."""

    verb: str
    who: int = 0
    n: int = 0

    def __str__(self) -> str:
        return f"{self.verb} w{self.who} {self.n}"


class Both:
    """`policy`: mode, bound, quorum and grace."""

    def __init__(
        self, policy, *, workers=2, until=None, longest=None, delayed=False, least=1, most=None, ratio=None, after=3
    ) -> None:
        mode, bound, quorum, grace = policy
        rule = {"least_updates": least, "needs_rounds": least > 1}
        rule |= {"max_update_norm": most, "max_update_norm_ratio": ratio}
        self.settings = Settings(
            (GroupSettings(PolicyTerms(mode, bound, quorum, grace), **rule),),
            workers=workers,
            lease_seconds=LEASE_SECONDS,
            max_iteration_seconds=longest,
            until=until,
            quarantine_after=after,
        )
        self.measured = most is not None or ratio is not None
        self.machine = Machine(self.settings, epoch=1)
        limits = {"lease": LEASE_SECONDS, "until": until, "longest": longest}
        limits |= {"most": most, "ratio": ratio, "after": after}
        self.oracle = Oracle(policy, workers=workers, least=least, rounds_only=least > 1, **limits)
        self.delayed = delayed
        self.now = 0.0
        self.sessions: dict[str, list[str]] = {}
        self.sent: list[object] = []
        self.asked = 0
        self.open: dict[int, object] = {}
        self.making: list[int] = []
        self.failing = False
        self.trace: list[str] = []
        self.checker = Checker()
        self._record_start(*save(self.machine))

    def play(self, moves) -> None:
        for move in moves:
            self.trace.append(f"-- {move}")
            getattr(self, move.verb)(f"w{move.who}", move.n)

    # One event, to both.

    def ask(self, message) -> None:
        self.asked += 1
        self.sent.append(message)
        self.open[self.asked] = message
        norm = norm_of(message) if self.measured and isinstance(message, Push) else None
        event = Asked(self.asked, message, norm)
        self._event(event, lambda: self.oracle.ask(self.asked, message, self.now, norm))

    def _event(self, event, tell_oracle) -> None:
        self.trace.append(f"{self.now:g} {event}")
        try:
            effects = self.machine.step(event, self.now)
        except Exception as error:
            error.add_note("\n".join(self.trace))
            raise
        self.trace.extend(f"     {effect}" for effect in effects)
        tell_oracle()
        self._compare(effects)
        self._judge({"t": self.now, "event": plain(event), "effects": [plain(effect) for effect in effects]})
        for effect in effects:
            if isinstance(effect, Answered):
                del self.open[effect.request]
        self.making += [effect.number for effect in effects if isinstance(effect, (Adopt, Apply, Initialize))]
        while self.making and not self.delayed:
            self._publish_one()

    def _judge(self, row) -> None:
        try:
            self.checker.take(row)
        except Violated as error:
            error.add_note("\n".join(self.trace))
            raise

    def _record_start(self, state, bodies) -> None:
        settings, epoch = plain(self.settings), self.machine.epoch
        row = {"is": "Started", "t": self.now, "epoch": epoch, "settings": settings, "state": state, "bodies": bodies}
        self._judge(row)

    def _publish_one(self) -> None:
        failed, self.failing = self.failing, False
        event = Failed if failed else Published
        self._event(event("default", self.making.pop(0)), lambda: self.oracle.publish(self.now, failed=failed))

    def _compare(self, effects) -> None:
        oracle = self.oracle
        self._same("replies", sorted(told.replies(effects), key=repr), sorted(oracle.replies, key=repr))
        self._same("steps", told.applies(effects), oracle.applies)
        self._same("dropped bodies", sorted(told.drops(effects)), sorted(oracle.drops))
        self._same("happened", sorted(told.happened(effects), key=repr), sorted(oracle.happened, key=repr))
        self._compare_states()

    def _compare_states(self) -> None:
        oracle, group = self.oracle, self.machine.groups["default"]
        state = status(self.machine, self.now)
        shown = state["groups"]["default"]
        self._same("parked", {one.request for one in group.waiting}, {one.request for one in oracle.waiters})
        self._same("min clock", shown["min_clock"], oracle.min_clock())
        self._same("version", shown["version"], oracle.published)
        self._same("policy", told.told(PolicyState.read(shown["policy"])), oracle.policy())
        self._same("deadline", self.machine.next_deadline, oracle.deadline())
        parked = {one.life: one for one in oracle.waiters if one.life}
        for worker, life in zip(state["workers"], oracle.live(), strict=True):
            progress = worker["groups"]["default"]
            self._same("rank", (worker["rank"], worker["incarnation"]), (life.rank, life.number))
            self._same(f"clock of {life.rank}", progress["clock"], oracle.clock(life))
            self._same(f"lease of {life.rank}", worker["lease_left_seconds"], oracle.lease_left(life))
            if life in parked:
                why = oracle.why_not(parked[life].pull, life)
                assert why is not None
                self._same("why", (progress["why"]["reason"], tuple(progress["why"]["waiting_for"])), why)
        if oracle.mode == "sync" and oracle.switching_at is None:
            opened = oracle.open_round
            waits_for = sorted(life.rank for life in oracle.missing(opened)) if opened else []
            self._same("round waits for", shown["round"]["waits_for"], waits_for)
            self._same("next round", group.rounds.next_number, oracle.next_round())

    def _same(self, what, machine, oracle) -> None:
        if machine != oracle:
            story = "\n".join(self.trace)
            raise AssertionError(f"{what}\n  machine: {machine}\n  oracle:  {oracle}\n{story}")

    # What the moves stand for.
    def _life(self, rank):
        lives = [life for life in self.oracle.lives if life.rank == rank]
        return lives[-1] if lives else None

    def _named(self, rank) -> Named:
        life = self._life(rank)
        return Named(rank, self.oracle.epoch, life.number if life else 1)

    def _clock(self, rank) -> int:
        life = self._life(rank)
        return self.oracle.clock(life) if life else 0

    def _grant(self, rank, n=0):
        """The version and round to push from: the newest grant, or an older one."""
        life = self._life(rank)
        grants = self.oracle.granted(life) if life else []
        if not grants:
            return self.oracle.published, None
        chosen = grants[-1 - (n // 4) % len(grants)]
        return chosen.version, chosen.round

    def join(self, rank, n) -> None:
        sessions = self.sessions.setdefault(rank, [f"{rank}-0"])
        self.ask(Join(rank, sessions[-1]))

    def rejoin(self, rank, n) -> None:
        """A new process of the rank."""
        sessions = self.sessions.setdefault(rank, [])
        sessions.append(f"{rank}-{len(sessions)}")
        self.join(rank, n)

    def old_join(self, rank, n) -> None:
        sessions = self.sessions.setdefault(rank, [f"{rank}-0"])
        self.ask(Join(rank, sessions[-1 - n % len(sessions)]))

    def pull(self, rank, n) -> None:
        least = self.oracle.published + 1 if n == 7 else 0
        since = Version(self.oracle.epoch, self.oracle.published) if n == 5 else None
        wait_seconds = PULL_WAITS_SECONDS[n % 4]
        self.ask(Pull("default", self._named(rank), self._clock(rank), least, since, wait_seconds))

    def old_pull(self, rank, n) -> None:
        """For an iteration before the clock, as by a worker that has not heard of having been moved on."""
        clock = max(0, self._clock(rank) - 1 - n % 2)
        self.ask(Pull("default", self._named(rank), clock, wait_seconds=PULL_WAITS_SECONDS[n // 2]))

    def push(self, rank, n) -> None:
        kind = {5: UpdateKind.MODEL, 6: UpdateKind.DELTA}.get(n, UpdateKind.GRADIENT)
        version, number = self._grant(rank, n)
        wait_seconds = PULL_WAITS_SECONDS[n % 4]
        self.ask(
            Push(
                self._named(rank),
                self._clock(rank),
                version,
                kind,
                1 + n % 3,
                round=number,
                keys=("k0", "k1"),
                pull=n % 2 == 0,
                wait_seconds=wait_seconds,
            )
        )

    def step(self, rank, n) -> None:
        self.pull(rank, 0)
        life = self._life(rank)
        if life and self.oracle.granted(life):
            self.push(rank, n)

    def part(self, rank, n) -> None:
        parts = 2 + n % 2
        place = (n // 2) % parts
        version, number = self._grant(rank)
        keys = ("k0",) if n == 7 else (f"k{place}",)
        self.ask(
            Push(
                self._named(rank),
                self._clock(rank),
                version,
                UpdateKind.GRADIENT,
                2,
                round=number,
                part=place,
                parts=parts,
                keys=keys,
                pull=n == 4,
                wait_seconds=9.25,
            )
        )

    def skip(self, rank, n) -> None:
        version, number = self._grant(rank, n)
        wait_seconds = PULL_WAITS_SECONDS[n % 4]
        pull = n % 2 == 0
        named, clock = self._named(rank), self._clock(rank)
        self.ask(Push(named, clock, version, UpdateKind.SKIP, round=number, pull=pull, wait_seconds=wait_seconds))

    def wrong(self, rank, n) -> None:
        """A push that is out of step in one thing."""
        named, clock = self._named(rank), self._clock(rank)
        version, number = self._grant(rank)
        match n:
            case 0:
                clock += 1
            case 1 | 7:
                clock = max(0, clock - (1 if n == 1 else 2))
            case 2:
                version += 1
            case 3:
                named = Named(rank, named.epoch + 1, named.incarnation)
            case 4 | 5:
                named = Named(rank, named.epoch, max(1, named.incarnation + (5 if n == 4 else -1)))
            case 6:
                number = 0 if number is None else number + 1
        self.ask(Push(named, clock, version, UpdateKind.GRADIENT, 1, round=number, keys=("k0",)))

    def again(self, rank, n) -> None:
        """A message that was sent before: the newest, or one of many others."""
        if self.sent:
            self.ask(self.sent[-1 - (n + 8 * int(rank[1:])) % len(self.sent)])

    def push_again(self, rank, n) -> None:
        mine = [one for one in self.sent if isinstance(one, Push) and one.life.rank == rank]
        if mine:
            self.ask(mine[-1 - (n // 4) % len(mine)])

    def leave(self, rank, n) -> None:
        self.ask(Leave(self._named(rank)))

    def heartbeat(self, rank, n) -> None:
        self.ask(Heartbeat(self._named(rank)))

    def wait(self, rank, n) -> None:
        self.now += WAITS_SECONDS[n]
        self._event(Tick(), lambda: self.oracle.tick(self.now))

    def due(self, rank, n) -> None:
        """The moment at which the open round closes of itself, or half a second before."""
        deadline = self.oracle.deadline()
        if deadline is not None:
            self.now = max(self.now, deadline - 0.5 * (n % 4 == 3))
            self._event(Tick(), lambda: self.oracle.tick(self.now))

    def pause(self, rank, n) -> None:
        """The server stands still; what came in during a part of it was taken before that was noticed."""
        seconds = 1 + WAITS_SECONDS[n]
        if n % 2:
            self.now += WAITS_SECONDS[n] / 2
            self.heartbeat(rank, n) if n % 4 == 1 else self.step(rank, n - 1)
            self.now += 1 + WAITS_SECONDS[n] / 2
        else:
            self.now += seconds
        self._event(Paused(seconds), lambda: self.oracle.pause(seconds, self.now))

    def gone(self, rank, n) -> None:
        if self.open:
            request = list(self.open)[n % len(self.open)]
            self._event(Gone(request), lambda: self.oracle.gone(request, self.now))
            del self.open[request]

    def publish(self, rank, n) -> None:
        for _ in range(min(1 + n // 2, len(self.making))):
            self._publish_one()

    def fail(self, rank, n) -> None:
        """The step that is being made fails, or the next one."""
        self.failing = True
        if self.making:
            self._publish_one()

    def quarantine(self, rank, n) -> None:
        self.ask(Quarantine(rank, "an admin says so"))

    def release(self, rank, n) -> None:
        self.ask(Release(rank))

    def policy(self, rank, n) -> None:
        self.ask(SetPolicy(PolicyTerms(*POLICIES[n])))

    def quorum(self, rank, n) -> None:
        mode, bound, quorum, grace = QUORUMS[n]
        self.ask(SetPolicy(PolicyTerms(mode, bound, quorum, grace)))

    def offer(self, rank, n) -> None:
        chosen = (SPECS, SPECS, SPECS[:1], SPECS[:2], SPECS[1:], (CONFLICT,), SPECS, SPECS[:2])[n]
        self.ask(Offer(chosen, ask=n == 6))

    def declare(self, rank, n) -> None:
        """All keys of a model: the same as others have, a layer fewer, another one."""
        chosen = (SPECS, SPECS, SPECS[:2], SPECS[1:], SPECS[:1], SPECS, (*SPECS[1:], CONFLICT), SPECS[:2])[n]
        self.ask(Offer(chosen, ask=n in (1, 7), whole=True))

    def read(self, rank, n) -> None:
        self.ask(Pull(min_version=self.oracle.published + n // 4, wait_seconds=PULL_WAITS_SECONDS[n % 4]))

    def barrier(self, rank, n) -> None:
        name, parties = (("pair", 2), ("all", 1))[n % 2]
        generation = self.oracle.barriers.generations.get(name, 0) + {4: -1, 5: 1}.get(n, 0)
        wait_seconds = 6.25 if n else None
        self.ask(Barrier(self._named(rank), name, max(0, generation), parties, wait_seconds))

    def restart(self, rank, n) -> None:
        """The server goes and comes back from what it has just saved: as the same epoch, or as a new one."""
        state, bodies = save(self.machine)
        epoch = self.machine.epoch + n % 2
        self.machine = restore(self.settings, json.loads(json.dumps(state)), bodies, epoch, self.now)
        for number in self.making:
            self._judge({"t": self.now, "event": plain(Published("default", number)), "effects": []})
        self.making.clear()
        self.open.clear()
        self.oracle.restart(self.now, epoch)
        self._record_start(state, bodies)
        self._event(Tick(), lambda: self.oracle.tick(self.now))

    def stop(self, rank="", n=0) -> None:
        """The end: everybody who waits is told at once, and nobody waits afterwards."""
        self._event(Stop(), lambda: self.oracle.stop(self.now))
        self.step("w0", 0)
        while self.making:
            self._publish_one()
        assert not self.open, f"unanswered after the stop: {self.open}"
        self.checker.end()
