"""A whole run in virtual time: one server, some workers, a bad network, and things that go wrong.

The one rule: everything follows from the seed, so a failing seed is the whole report; `run.py SEED` shows it again.
"""

import json
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from leeway.protocol.membership import Heartbeat, Join
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.tuning import SetPolicy
from leeway.ps.core.effects import Answered, Apply, Initialize
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Published, Stop, Tick
from leeway.ps.core.machine import Machine
from leeway.ps.core.saved import restore, save
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.watching.history import plain
from leeway.worker.session.states import Ending
from tests.simulation.invariants import Facts, Invariants
from tests.simulation.network import Clock, Network, Weather
from tests.simulation.process import SPECS, Loop, Process

if TYPE_CHECKING:
    from leeway.protocol.pushes import Push

TICK_SECONDS = 0.5
# How long things go wrong, and how much later the run must be over, however unlucky it was.
TROUBLE_SECONDS = 12.0
PATIENCE_SECONDS = 400.0
# A layer that the model of the run does not have.
ANOTHER = TensorSpec("another", (2,), "float32", Kind.TRAINABLE)
# Some twice, to come up twice as often.
VERBS = (
    *("crash", "crash", "hang", "replace", "cut off", "die", "leave"),
    *("stop", "kill", "save", "pause", "pause", "switch", "switch"),
)


QUORUMS = [("sync", None, quorum, grace) for quorum, grace in ((1, 0.0), (2, 0.3), (2, None), (3, 0.1))]


def wanted(mode: str, staleness: int | None = None, quorum: int | None = None, grace: float | None = None) -> SetPolicy:
    return SetPolicy(PolicyTerms(mode, staleness, quorum, grace))


@dataclass(frozen=True)
class Trouble:
    """Something that goes wrong, or is changed, at a time."""

    at: float
    verb: str
    rank: str = ""
    seconds: float = 0.0
    policy: tuple = ("async",)

    def __str__(self) -> str:
        what = f" {self.policy}" if self.verb == "switch" else ""
        return f"{self.verb} {self.rank}{what} {f'{self.seconds:.1f} s' if self.seconds else ''}".rstrip()


class Unfinished(AssertionError):
    """The trouble was over, and yet the run did not come to its end."""


class Simulation:
    """`policies`: among which the seed chooses: mode, bound, quorum and grace. `troubles` None: as the seed has it.
    `failing`: the share of steps that fail. `least`: how many updates a round needs for a step.
    """

    # How `run.py` is told of it.
    kind = ""

    def __init__(
        self,
        seed: int,
        *,
        policies=None,
        troubles=None,
        until=None,
        until_seconds=None,
        apply_seconds=None,
        failing=None,
        least=None,
    ) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.clock = Clock()
        self.trace: list[tuple[float, str, object]] = []
        self.ranks = self._ranks(random.choice((1, 2, 2, 3, 3, 4, 5)))
        self.policies = policies or [("sync",), ("async",), *(("ssp", bound) for bound in range(4)), *QUORUMS]
        self.troubles = self._troubles() if troubles is None else troubles
        gone_for_good = {one.rank for one in self.troubles if one.verb in ("die", "leave")}
        self.luck = Random(-seed)
        self.groups = self._groups(least, failing)
        self.settings = Settings(
            self.groups,
            workers=self._workers(max(1, len(self.ranks) - len(gone_for_good))),
            lease_seconds=4.0,
            until=until or random.choice((3, 5, 8, 12)),
            until_seconds=until_seconds,
        )
        self.apply_seconds = random.choice((0.0, 0.02, 0.4)) if apply_seconds is None else apply_seconds
        self.network = Network(self.clock, random, self._weather())
        self.invariants = Invariants(self.settings, self.specs)
        self.machine: Machine | None = Machine(self.settings, epoch=1)
        self._record_start(save(self.machine)[0])
        # When the machine wants to be called next.
        self.due: float | None = None
        self.saved: tuple[str, list[int], Facts, dict[int, Push]] | None = None
        # A checkpoint is one when all that was in flight as its state was taken has been made.
        self.unsaved: tuple[dict[str, int], tuple[str, list[int], Facts, dict[int, Push]]] | None = None
        self.server_life = 0
        # The server stands still until then, and from when on it has not been told so yet.
        self.paused_until = 0.0
        self.pause_to_notice = 0.0
        self.helped = False
        self.requests = self.updates = self.events = self.starting = 0
        self.connections: dict[int, tuple[Process, object]] = {}
        # By group, what its applier has to make.
        self.making: dict[str, list[int]] = {}
        self.lost_updates: set[int] = set()
        self.processes: list[Process] = []

    def __str__(self) -> str:
        settings = self.settings
        head = f"seed {self.seed}: {settings}, steps take {self.apply_seconds} s, {self.network.weather}"
        troubles = "\n".join(f"  {one.at:8.3f} {one}" for one in self.troubles)
        story = "\n".join(f"{at:10.3f} {who:<12} {what}" for at, who, what in self.trace)
        return f"{head}\n{troubles}\n{story}\nrun it again: python tests/simulation/run.py {self.seed}{self.kind}"

    # What runs.

    def _ranks(self, count: int) -> list[str]:
        """Whose processes there are."""
        return [f"w{place}" for place in range(count)]

    def _groups(self, least: int | None, failing: float | None) -> tuple[GroupSettings, ...]:
        policy = wanted(*self.random.choice(self.policies))
        self.failing = self.luck.choice((0.0, 0.0, 0.1, 0.4)) if failing is None else failing
        self.specs = {DEFAULT_GROUP: SPECS}
        # A start refuses a quorum below what the rule needs.
        most = min(len(self.ranks), policy.terms.quorum or len(self.ranks))
        least = min(most, self.luck.choice((1, 1, 1, 2, 3))) if least is None else least
        return (GroupSettings(policy.terms, least_updates=least),)

    def _workers(self, most: int) -> int:
        """How many begin together."""
        return most

    def _process(self, rank: str, name: str) -> Process:
        return Process(self, rank, name, Loop(self.random.choice((0.1, 0.3, 1.0))))

    def _weather(self) -> Weather:
        random = self.random
        if random.random() < 0.25:
            return Weather()
        lost, doubled, late = (random.choice((0.0, 0.05, 0.2)) for _ in range(3))
        return Weather(lost, doubled, late, random.choice((0.01, 0.1, 0.3)))

    def _troubles(self) -> list[Trouble]:
        random = self.random
        chosen = [random.choice(VERBS) for _ in range(random.choice((0, 1, 2, 3, 5, 7)))]
        found = []
        # Somebody has to be left, and a rank that is gone for good has no other troubles.
        ranks = list(self.ranks)
        for verb in sorted(chosen, key=lambda verb: verb not in ("die", "leave")):
            if verb in ("die", "leave"):
                if len(ranks) == 1:
                    continue
                rank = ranks.pop()
            else:
                rank = random.choice(ranks)
            at, seconds = random.uniform(0.0, TROUBLE_SECONDS), random.uniform(0.2, 7.0)
            found.append(Trouble(at, verb, rank, seconds, random.choice(self.policies)))
        return sorted(found, key=lambda one: one.at)

    # The run.

    def run(self) -> None:
        """Play it to the end. Raises `Violated`, `Unfinished`, or what the code under test raises."""
        for rank in self.ranks:
            self._start_after(self.random.uniform(0.0, 1.0), rank)
        for trouble in self.troubles:
            self.clock.after(trouble.at, partial(self._happen, trouble))
        self.clock.after(TROUBLE_SECONDS, self._calm)
        self.clock.after(TICK_SECONDS, self._tick)
        while not (self._over() and self.invariants.finished):
            if not self.helped and self._needs_help():
                self.helped = True
                for rank in self._helpers():
                    self._start_after(0.0, rank)
            for rank in self._missed():
                self.helped = True
                self._start_after(0.0, rank)
            self.clock.step()
            if self.clock.now > TROUBLE_SECONDS + PATIENCE_SECONDS:
                states = ", ".join(
                    f"{one.name}: {', '.join(map(str, one.conversations))}" for one in self.processes if one.alive
                )
                raise Unfinished(f"not at the end after {self.clock.now:.0f} s: {states}")
        self._check_the_end()

    def _missed(self) -> list[str]:
        """After a crash with nothing saved a new run waits for all, also for those who were done with the old one."""
        if self.clock.now <= TROUBLE_SECONDS or self.helped or self.starting or self.machine is None:
            return []
        if all(name in self.machine.groups and self.machine.groups[name].assembled for name in self.specs):
            return []
        living = {one.rank for one in self.processes if not one.ended}
        return [rank for rank in self.ranks if rank not in living and not self._is_gone(rank)]

    def _is_gone(self, rank: str) -> bool:
        return any(one.rank == rank and one.gone for one in self.processes)

    def _needs_help(self) -> bool:
        """Whoever was left at the end has died there: somebody has to come and do the last iterations."""
        return self._over() and not self.machine.membership.live()

    def _helpers(self) -> list[str]:
        return self.ranks[:1]

    def _over(self) -> bool:
        quiet = self.clock.now > TROUBLE_SECONDS and not self.starting and not any(self.making.values())
        return quiet and self.machine is not None and all(one.ended for one in self.processes)

    def _check_the_end(self) -> None:
        for rank in self.ranks:
            ends = [one.endings for one in self.processes if one.rank == rank and one.alive]
            if {Ending.FINISHED} not in ends and not self._is_gone(rank):
                raise Unfinished(f"{rank} did not reach the end: {ends}")
        self.invariants.checker.end()

    def _tell(self, who: str, what: object) -> None:
        self.trace.append((self.clock.now, who, what))

    def _start_after(self, seconds: float, rank: str) -> None:
        self.starting += 1
        self.clock.after(seconds, partial(self._start, rank))

    def _start(self, rank: str) -> None:
        self.starting -= 1
        name = f"{rank}.{sum(one.rank == rank for one in self.processes)}"
        self._tell(name, "starts")
        self.processes.append(self._process(rank, name))

    def _newest(self, rank: str) -> Process | None:
        return next((one for one in reversed(self.processes) if one.rank == rank), None)

    # What goes wrong.

    def _calm(self) -> None:
        self._tell("", "the trouble is over")
        self.network.calm()

    def _happen(self, trouble: Trouble) -> None:
        self._tell("", trouble)
        process = self._newest(trouble.rank)
        match trouble.verb:
            case "crash" if process and not process.ended:
                process.kill()
                self._start_after(trouble.seconds, trouble.rank)
            case "hang" if process:
                process.hang(trouble.seconds)
            case "replace" if process and not process.ended:
                process.hang(trouble.seconds * 2)
                self._start_after(trouble.seconds, trouble.rank)
            case "cut off":
                self.network.cut_off[trouble.rank] = self.clock.now + trouble.seconds
            case "die" if process:
                process.gone = True
                process.kill()
            case "leave" if process:
                process.gone = True
                process.leave()
            case "stop":
                self._when_it_runs(partial(self._stop, trouble.seconds / 4))
            case "kill" if self.machine and self._may_lose_state():
                self.machine = None
                self._disconnect()
                self.clock.after(trouble.seconds / 4, partial(self._restore, self.machine_epoch + 1))
            case "save":
                self._when_it_runs(self._save)
            case "switch":
                self._when_it_runs(partial(self._switch, trouble.policy))
            case "pause" if self.machine and self.clock.now >= self.paused_until:
                self._pause(trouble.seconds)
            case "stranger":
                self._when_it_runs(self._meet_a_stranger)

    def _meet_a_stranger(self) -> None:
        """A worker with a layer more, once there is a model, and somebody who offers that layer alone."""
        if self.machine.groups[DEFAULT_GROUP].specs:
            for offer in (Offer((*SPECS, ANOTHER), whole=True), Offer((ANOTHER,))):
                self.requests += 1
                self.step(Asked(self.requests, offer))

    def _may_lose_state(self) -> bool:
        """Whoever has finished and gone does not come back: a start from before the beginning could wait for ever."""
        finished = any(one.endings != {None} for one in self.processes)
        return not finished or (self.saved is not None and self.saved[2].begun)

    # The server.

    def _when_it_runs(self, action) -> None:
        """Whatever comes while the server stands still is found when it runs again, in its order."""
        if self.clock.now < self.paused_until:
            self.clock.after(self.paused_until - self.clock.now, partial(self._when_it_runs, action))
        elif self.machine:
            action()

    def _pause(self, seconds: float) -> None:
        self.paused_until = self.clock.now + seconds
        self.pause_to_notice = seconds
        if self.random.random() < 0.5:
            # Else it is noticed late, by the next tick, after what lay in the sockets.
            self._when_it_runs(partial(self._notice_pause, self.server_life))

    def _notice_pause(self, server_life: int) -> None:
        seconds, self.pause_to_notice = self.pause_to_notice, 0.0
        if seconds and server_life == self.server_life:
            self.step(Paused(seconds))

    def _switch(self, policy) -> None:
        self.requests += 1
        self.step(Asked(self.requests, wanted(*policy)))

    def gave_way(self, process: Process) -> None:
        """Its error has ended the process: whoever looks after it starts another."""
        self._start_after(0.5, process.rank)

    def step(self, event) -> None:
        assert self.machine is not None
        self.events += 1
        self._tell("server", event)
        effects = self.machine.step(event, self.clock.now)
        for effect in effects:
            self._tell("", f"  {effect}")
        self.invariants.event(event, effects, self.machine, self.clock.now)
        for effect in effects:
            self.perform(effect)
        self._set_deadline()

    def _set_deadline(self) -> None:
        at = self.machine.next_deadline if self.machine else None
        if at is not None and at != self.due:
            self.clock.after(max(0.0, at - self.clock.now), partial(self._ring, at, self.server_life))
        self.due = at

    def _ring(self, at: float, server_life: int) -> None:
        self._when_it_runs(partial(self._is_due, at, server_life))

    def _is_due(self, at: float, server_life: int) -> None:
        if server_life != self.server_life or at != self.due:
            return
        self.due = None
        # A pause is looked for first, and may have moved what was due.
        self._notice_pause(server_life)
        self.step(Tick())

    def perform(self, effect) -> None:
        match effect:
            case Answered(request, reply):
                self._reply(request, reply)
            case Apply() | Initialize():
                making = self.making.setdefault(effect.group, [])
                making.append(effect.number)
                if len(making) == 1:
                    self._make_next(effect.group)

    def _make_next(self, group: str) -> None:
        """The group's one applier: one version after the other."""
        seconds = self.random.uniform(0.0, self.apply_seconds)
        self.clock.after(seconds, partial(self._made, group, self.server_life))

    def _made(self, group: str, server_life: int) -> None:
        self._when_it_runs(partial(self._publish_next, group, server_life))

    def _publish_next(self, group: str, server_life: int) -> None:
        if server_life == self.server_life:
            self._publish(group)
            if self.making[group]:
                self._make_next(group)

    def _publish(self, group: str) -> None:
        number = self.making[group].pop(0)
        failed = self.luck.random() < self.failing
        self.step(Failed(group, number) if failed else Published(group, number))
        if self.unsaved is None or number > self.unsaved[0].get(group, 0):
            return
        if failed:
            # What was taken says that this version has its updates in it: it is taken again.
            self._save()
        elif number == self.unsaved[0][group]:
            del self.unsaved[0][group]
            if not self.unsaved[0]:
                self.saved, self.unsaved = self.unsaved[1], None

    def _tick(self) -> None:
        if self.clock.now < self.paused_until:
            # What lay in the sockets is heard first.
            self.clock.after(self.paused_until - self.clock.now + TICK_SECONDS / 10, self._tick)
            return
        if self.machine and self.pause_to_notice:
            # It judges nobody before it has had a time to hear what came in.
            self._notice_pause(self.server_life)
        elif self.machine:
            self.step(Tick())
        self.clock.after(TICK_SECONDS, self._tick)

    def _save(self) -> None:
        assert self.machine is not None
        state, bodies = save(self.machine)
        kept = {body: self.invariants.bodies[body] for body in bodies}
        taken = (json.dumps(state), bodies, self.invariants.snapshot(), kept)
        if any(self.making.values()):
            self.unsaved = ({group: making[-1] for group, making in self.making.items() if making}, taken)
        else:
            self.saved, self.unsaved = taken, None

    def _stop(self, away_seconds: float) -> None:
        """SIGTERM: everybody is told, what is being made is made, the state is saved."""
        self.clock.after(away_seconds, partial(self._restore, self.machine_epoch))
        self.step(Stop())
        for group, making in self.making.items():
            while making:
                self._publish(group)
        self._save()
        self.machine = None
        self._disconnect()

    def _disconnect(self) -> None:
        """The server's process is gone, with its connections and its applier."""
        self.server_life += 1
        self.pause_to_notice = self.paused_until = 0.0
        self.unsaved = self.due = None
        self.making.clear()
        for request in list(self.connections):
            process, ask = self.connections.pop(request)
            if not isinstance(ask, Heartbeat):
                self.clock.after(self.random.uniform(0.0, 0.2), partial(self._break, process, ask))

    def _break(self, process: Process, ask: object) -> None:
        process.when_awake(partial(process.lost, ask))

    @property
    def machine_epoch(self) -> int:
        return self.invariants.epoch

    def _restore(self, epoch: int) -> None:
        before = set(self.invariants.facts.applied) | set(self.invariants.facts.held.values())
        if self.saved:
            text, bodies, facts, kept = self.saved
            # What was saved is known under the first numbers, as in a server.
            kept = {place + 1: kept[body] for place, body in enumerate(bodies)}
            self.machine = restore(self.settings, json.loads(text), list(kept), epoch, self.clock.now)
        else:
            self.machine, facts, kept = Machine(self.settings, epoch, self.clock.now), Facts(), {}
        self._record_start(json.loads(text) if self.saved else save(self.machine)[0])
        self.invariants.restarted(facts, self.machine, kept, self.clock.now)
        self.lost_updates |= before - set(facts.applied) - set(facts.held.values())
        self._tell("server", f"starts again, epoch {epoch}")
        self._set_deadline()

    def _record_start(self, state) -> None:
        assert self.machine is not None
        settings = plain(self.settings)
        row = {"is": "Started", "t": self.clock.now, "epoch": self.machine.epoch, "settings": settings, "state": state}
        self.invariants.judge(row)

    # Between them.

    def new_update(self, process: Process) -> int:
        self.updates += 1
        self.invariants.began_update(process, self.updates)
        return self.updates

    def send(self, process: Process, ask: object) -> None:
        self._tell(process.name, ask)
        if self.machine is None:
            if not isinstance(ask, Heartbeat):
                self.clock.after(0.05, partial(self._break, process, ask))
            return
        self.network.carry(process.rank, partial(self._arrives, process, ask, self.server_life))

    def _arrives(self, process: Process, ask: object, server_life: int) -> None:
        self._when_it_runs(partial(self._takes, process, ask, server_life))

    def _takes(self, process: Process, ask: object, server_life: int) -> None:
        # A connection ends with the server's process: what was on its way does not reach the next one.
        if server_life != self.server_life:
            return
        # A join that was never heard before cannot be told from a newer process's; the dead do not send any.
        if isinstance(ask, Join) and not process.alive:
            return
        self.requests += 1
        self.connections[self.requests] = (process, ask)
        self.step(Asked(self.requests, ask))

    def _reply(self, request: int, reply: object) -> None:
        process, ask = self.connections.pop(request, (None, None))
        if process:
            self.network.carry(process.rank, partial(process.hears, ask, reply))

    def hang_up(self, process: Process, ask: object) -> None:
        """The client has given up. The server may notice, soon or never."""
        for request, (who, asked) in list(self.connections.items()):
            if who is process and asked is ask and self.random.random() < 0.7:
                self.clock.after(self.random.uniform(0.0, 1.0), partial(self._gone, request))

    def forget(self, process: Process) -> None:
        for ask in {id(ask): ask for who, ask in self.connections.values() if who is process}.values():
            self.hang_up(process, ask)

    def _gone(self, request: int) -> None:
        self._when_it_runs(partial(self._notice_gone, request))

    def _notice_gone(self, request: int) -> None:
        if self.connections.pop(request, None):
            self.step(Gone(request))
