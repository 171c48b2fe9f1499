"""Replicas against the oracle, which knows none: a schedule of replicas equals that of workers in their place.

The stages of a replica do together what one worker does: their first pull is its pull, their last part its push, their
last join its join. So what is played with stages to one machine is played with workers to the other and to the oracle,
and after every move the two machines stand alike.

The one rule: what is a replica's alone, who may sit and what each stage is told, is judged by its history.
"""

import json
from dataclasses import dataclass, replace

from leeway.protocol.lives import Life
from leeway.protocol.membership import Heartbeat, Join, Joined, Leave
from leeway.protocol.pulls import Granted, Pull
from leeway.protocol.pushes import Push, Pushed, PushPulled, UpdateKind
from leeway.protocol.refusals import Refused
from leeway.protocol.replicas import Place
from leeway.ps.core.effects import Accepted, Advanced, Answered, Began, Ended
from leeway.ps.core.events import Asked, Paused, Published, Stop, Tick
from leeway.ps.core.machine import Machine
from leeway.ps.core.saved import restore, save
from leeway.ps.watching.history import plain
from tests.guarantees import Checker, Violated
from tests.properties.schedule import Both

# Of the three ranks that schedules know, the first one is a worker.
STAGES = {"w1": 2, "w2": 3}
# Nobody is told that its wait is over: how long each waits differs between a worker and its stages.
PATIENCE_SECONDS = 100_000.0
# Below a lease, which all renew before.
WAITS_SECONDS = (0, 1, 1, 2, 2, 3, 5, 8)


@dataclass
class Stage:
    """`does`: away, comes, idle, waits, computes or pushes."""

    rank: str
    place: Place
    session: str
    does: str = "away"
    incarnation: int = 0
    clock: int = 0
    grant: tuple[int, int | None] = (0, None)
    push: Push | None = None


class Split(Both):
    """`machine` and the oracle have workers, `split` has replicas in place of those of `STAGES`."""

    def __init__(self, policy, **settings) -> None:
        super().__init__(policy, **settings)
        self.split = Machine(self.settings, epoch=1)
        self.judge = Checker()
        self.processes = 0
        self.stages = {
            rank: [Stage(rank, Place(stage, stages), self._new_session()) for stage in range(stages)]
            for rank, stages in STAGES.items()
        }
        self.asked_of_split = 0
        self.waiting: dict[int, Stage] = {}
        # The iterations that a stage has pulled.
        self.pulled: set[tuple[str, int, int]] = set()
        self._record_start_of_split(*save(self.split))

    def play(self, moves) -> None:
        for move in moves:
            super().play([move])
            self._compare_machines()

    def _new_session(self) -> str:
        self.processes += 1
        return f"process-{self.processes}"

    # One event, to all.

    def ask(self, message) -> None:
        """What is no replica's is the same for all."""
        self.asked_of_split += 1
        self._tell_split(Asked(self.asked_of_split, message))
        super().ask(message)

    def _event(self, event, tell_oracle) -> None:
        if not isinstance(event, Asked):
            self._tell_split(event)
        super()._event(event, tell_oracle)

    def _ask_as(self, stage: Stage, message) -> None:
        self.asked_of_split += 1
        self.waiting[self.asked_of_split] = stage
        self._tell_split(Asked(self.asked_of_split, message))

    def _tell_split(self, event) -> None:
        self.trace.append(f"     split: {event}")
        effects = self.split.step(event, self.now)
        self.trace.extend(f"       {effect}" for effect in effects)
        row = {"t": self.now, "event": plain(event), "effects": [plain(effect) for effect in effects]}
        self._judge_split(row)
        for effect in effects:
            if isinstance(effect, Advanced) and any(one.push and one.push.pull for one in self._of(effect.rank)):
                self.pulled.add((effect.rank, self.split.membership.of_rank(effect.rank).number, effect.clock))
        done = [message for effect in effects if (message := self._as_a_worker(effect))]
        for effect in effects:
            if isinstance(effect, Answered) and effect.request in self.waiting:
                self._hears(self.waiting.pop(effect.request), effect.reply)
        for message in done:
            super().ask(message)

    def _of(self, rank) -> list[Stage]:
        return self.stages.get(rank, [])

    def _judge_split(self, row) -> None:
        try:
            self.judge.take(row)
        except Violated as error:
            error.add_note("\n".join(self.trace))
            raise

    def _as_a_worker(self, effect):
        """What the stages have done together, a worker does."""
        match effect:
            case Ended(rank) if rank in STAGES:
                return Leave(self._named(rank))
            case Began(rank) if rank in STAGES:
                return Join(rank, self._new_session())
            case Accepted(rank=rank, clock=clock) if rank in STAGES:
                pushes = [stage.push for stage in self.stages[rank] if stage.push and stage.push.clock == clock]
                # A skip gives up what the others have pushed.
                push = min(pushes, key=lambda push: push.samples)
                pull = any(push.pull for push in pushes)
                return replace(push, life=self._named(rank), part=0, parts=1, pull=pull)

    # The stages.

    def _hears(self, stage: Stage, reply) -> None:
        match reply:
            case Joined():
                stage.does, stage.incarnation = "idle", reply.incarnation
                stage.clock = reply.groups["default"].clock
            case Granted():
                stage.does, stage.clock, stage.grant = "computes", reply.clock, (reply.version.number, reply.round)
            case Pushed():
                stage.does, stage.push = "idle", None
                stage.clock = reply.clock + 1 if reply.next_clock is None else reply.next_clock
            case PushPulled():
                self._hears(stage, reply.pushed)
                stage.does = "waits"
                self._hears(stage, reply.pulled)
            case Refused(error):
                stage.push = None
                over = ("stage-lost", "stage-replaced", "evicted", "fenced", "left")
                stage.does = "away" if error.code in over or stage.does == "comes" else "idle"
                stage.clock = error.facts.get("clock", stage.clock)

    def go(self, rank, n) -> None:
        """The next step of a worker, or of one stage of a replica."""
        if rank in STAGES:
            stage = self.stages[rank][n % STAGES[rank]]
            {"away": self._come, "idle": self._pull_as, "computes": self._push_as}.get(stage.does, _nothing)(stage, n)
            return
        life = self._life(rank)
        if life is None or life.ended:
            self.rejoin(rank, n)
        elif self.oracle.granted(life):
            self.push(rank, n)
        else:
            self.ask(Pull("default", self._named(rank), self._clock(rank), wait_seconds=PATIENCE_SECONDS))

    def _come(self, stage: Stage, n) -> None:
        stage.does = "comes"
        self._ask_as(stage, Join(stage.rank, stage.session, place=stage.place, wait_seconds=PATIENCE_SECONDS))

    def _named_as(self, stage: Stage) -> Life:
        return Life(stage.rank, self.split.epoch, stage.incarnation, stage.place.stage)

    def _pull_as(self, stage: Stage, n) -> None:
        iteration = (stage.rank, stage.incarnation, stage.clock)
        is_first = iteration not in self.pulled
        self.pulled.add(iteration)
        stage.does = "waits"
        self._ask_as(stage, Pull("default", self._named_as(stage), stage.clock, wait_seconds=PATIENCE_SECONDS))
        life = self._life(stage.rank)
        if is_first and life and not life.ended and life.number == stage.incarnation:
            named = self._named(stage.rank)
            super().ask(Pull("default", named, iteration[2], wait_seconds=PATIENCE_SECONDS))

    def _push_as(self, stage: Stage, n, kind=UpdateKind.GRADIENT) -> None:
        version, number = stage.grant
        part = {"part": stage.place.stage, "parts": stage.place.stages} if kind is UpdateKind.GRADIENT else {}
        member = self.split.membership.of_rank(stage.rank)
        # Who comes behind another's skip would pull for all.
        is_new = member is not None and member.groups["default"].clock == stage.clock
        pull = is_new and n >= 4
        samples = 0 if kind is UpdateKind.SKIP else 3
        life, clock, wait = self._named_as(stage), stage.clock, PATIENCE_SECONDS
        stage.does = "pushes"
        stage.push = Push(*(life, clock, version, kind, samples), round=number, **part, pull=pull, wait_seconds=wait)
        self._ask_as(stage, stage.push)

    def skip(self, rank, n) -> None:
        if rank not in STAGES:
            super().skip(rank, n)
            return
        stage = self.stages[rank][n % STAGES[rank]]
        if stage.does == "computes":
            self._push_as(stage, n, UpdateKind.SKIP)

    def replace(self, rank, n) -> None:
        """A new process comes for a stage, or for a worker."""
        if rank not in STAGES:
            self.rejoin(rank, n)
            return
        place = n % STAGES[rank]
        old = self.stages[rank][place]
        new = self.stages[rank][place] = Stage(rank, old.place, self._new_session())
        self.waiting = {request: stage for request, stage in self.waiting.items() if stage is not old}
        self._come(new, n)

    def leave(self, rank, n) -> None:
        if rank not in STAGES:
            super().leave(rank, n)
            return
        stage = self.stages[rank][n % STAGES[rank]]
        if stage.does not in ("away", "comes"):
            stage.does = "away"
            self._ask_as(stage, Leave(self._named_as(stage)))

    # Time.

    def _all_are_heard_of(self) -> None:
        for rank in [life.rank for life in self.oracle.live()]:
            if rank in STAGES:
                for stage in self.stages[rank]:
                    self.asked_of_split += 1
                    self._tell_split(Asked(self.asked_of_split, Heartbeat(self._named_as(stage))))
                super().ask(Heartbeat(self._named(rank)))
            else:
                self.ask(Heartbeat(self._named(rank)))

    def wait(self, rank, n) -> None:
        self._all_are_heard_of()
        self.now += WAITS_SECONDS[n]
        self._event(Tick(), lambda: self.oracle.tick(self.now))

    def due(self, rank, n) -> None:
        self._all_are_heard_of()
        super().due(rank, n)

    def pause(self, rank, n) -> None:
        self.now += 1.0 + n
        self._event(Paused(1.0 + n), lambda: self.oracle.pause(1.0 + n, self.now))

    # The server goes and comes back.

    def restart(self, rank, n) -> None:
        state, bodies = save(self.split)
        self.waiting.clear()
        for event in (Stop(), *(Published("default", number) for number in self.making)):
            self._tell_split(event)
        self.split = restore(self.settings, json.loads(json.dumps(state)), bodies, self.split.epoch + n % 2, self.now)
        self._record_start_of_split(state, bodies)
        was = {"comes": "away", "waits": "idle", "pushes": "computes"}
        for stages in self.stages.values():
            for stage in stages:
                stage.does, stage.push = was.get(stage.does, stage.does), None
        self.pulled = {one for one in self.pulled if self._is_granted(*one)}
        super().restart(rank, n)

    def _is_granted(self, rank, incarnation, clock) -> bool:
        member = self.split.membership.of_rank(rank)
        progress = member.groups["default"] if member and member.number == incarnation else None
        return progress is not None and progress.clock == clock and bool(progress.grants)

    def _record_start_of_split(self, state, bodies) -> None:
        settings, epoch = plain(self.settings), self.split.epoch
        row = {"is": "Started", "t": self.now, "epoch": epoch, "settings": settings, "state": state, "bodies": bodies}
        self._judge_split(row)

    def stop(self, rank="", n=0) -> None:
        super().stop(rank, n)
        self._compare_machines()
        assert not self.waiting, f"unanswered after the stop: {self.waiting}"
        self.judge.end()

    # The two machines stand alike.

    def _compare_machines(self) -> None:
        for name, value in _standing(self.machine).items():
            other = _standing(self.split)[name]
            if value != other:
                story = "\n".join(self.trace)
                raise AssertionError(f"{name}\n  of workers:  {value}\n  of replicas: {other}\n{story}")


def _nothing(stage: Stage, n: int) -> None:
    """It waits for others."""


def _standing(machine: Machine) -> dict[str, object]:
    group = machine.groups["default"]
    rounds = group.rounds
    return {
        "versions": (group.published, group.decided, group.min_clock, tuple(group.specs), group.started),
        "policy": group.policy_state(),
        "deadline": machine.next_deadline,
        "round": (rounds.number, rounds.state, tuple(rounds.missing)),
        "held": {rank: (held.kind, held.samples) for rank, held in rounds.held.items()},
        "finished": machine.finished,
        "lives": {member.rank: (member.number, _progress(member.groups["default"])) for member in group.roster},
        "accepted": {rank: machine.membership.committed(rank).get("default", 0) for rank in ("w0", *STAGES)},
    }


def _progress(progress) -> tuple:
    record = progress.record
    told = record and (
        *(record.clock, record.reason, record.disposition, record.version, record.staleness),
        *(record.step_failed, record.too_few, record.next_clock),
    )
    return progress.clock, progress.passed, tuple(progress.grants), progress.owed, told
