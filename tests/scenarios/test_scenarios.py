"""Golden scenarios: what the pure core does, to be read as text. `language.py` says how a file is written.

`pytest tests/scenarios --rewrite` writes the results anew; read the difference before you keep it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from leeway.protocol.barriers import Barrier
from leeway.protocol.lives import Life
from leeway.protocol.membership import Heartbeat, Join, Joined, Leave
from leeway.protocol.offers import Offer
from leeway.protocol.pulls import Granted, Pull
from leeway.protocol.pushes import Push, Pushed, PushPulled, UpdateKind
from leeway.protocol.quarantine import Quarantine, Release
from leeway.protocol.replicas import Place
from leeway.protocol.tuning import SetPolicy
from leeway.protocol.versions import Version
from leeway.ps.core import describe
from leeway.ps.core.effects import Accepted, Adopt, Advanced, Answered, Apply, Drop, Initialize, SwitchBegun, WaitingFor
from leeway.ps.core.endings import Goal, Plateau
from leeway.ps.core.events import Asked, Failed, Gone, Paused, Published, Stop, Tick
from leeway.ps.core.machine import Machine
from leeway.ps.core.saved import restore, save
from leeway.ps.core.settings import GroupSettings, Settings
from tests.scenarios.language import Words, parse, policy, tensor

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


# For those who count and measure; here the last line of a step says as much.
BETWEEN_THE_LINES = (Accepted, Advanced, SwitchBegun, WaitingFor)


@dataclass(eq=False)
class Client:
    """A process as the scenario sees it: what it was told last, and what it has sent."""

    rank: str
    session: str
    place: Place | None = None
    life: Life | None = None
    clock: dict[str, int] = field(default_factory=dict)
    grant: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    pushes: dict[tuple[int, int], Push] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.rank if self.place is None else f"{self.rank}/{self.place.stage}"

    @property
    def part(self) -> str:
        return "1/1" if self.place is None else f"{self.place.stage + 1}/{self.place.stages}"


class Scenario:
    def __init__(self) -> None:
        self.now = 0.0
        self.requests = 0
        self.processes = 0
        self.open: dict[int, tuple[Client | str, str]] = {}
        self.body: dict[int, str] = {}
        self.spent: set[int] = set()
        self.clients: dict[str, Client] = {}
        self.holding = False
        self.coming: list[Published] = []
        self.saved: tuple[str, list[int]] | None = None
        self.out: list[str] = []

    def run(self, commands: list[str]) -> list[str]:
        self.out = []
        for command in commands:
            verb, words = parse(command)
            getattr(self, "do_" + verb.replace("-", "_"))(words)
        return [*self.out, describe.line(self.machine)]

    # Events in, effects out.

    def step(self, event, *, plainly: int | None = None) -> None:
        """`plainly`: the answers to this request, and what is applied at once for it, need no line."""
        for effect in self.machine.step(event, self.now):
            if isinstance(effect, BETWEEN_THE_LINES):
                continue
            plain = plainly is not None and self.is_plain(effect, plainly)
            if isinstance(effect, Answered):
                self.answered(effect, plain)
            elif isinstance(effect, Drop):
                self.spend(effect.bodies)
                self.out.append("drop " + ",".join(self.body[body] for body in effect.bodies))
            elif not plain:
                self.out.append(str(effect))
            if isinstance(effect, Apply):
                self.spend(body for contribution in effect.contributions for body in contribution.bodies)
            if isinstance(effect, (Adopt, Apply, Initialize)):
                self.coming.append(Published(effect.group, effect.number))
        if not self.holding:
            self.publish(plainly)

    def is_plain(self, effect, request: int) -> bool:
        if isinstance(effect, Answered):
            return effect.request == request and isinstance(effect.reply, Granted)
        return isinstance(effect, Apply) and not effect.aggregated

    def publish(self, plainly: int | None = None) -> None:
        while self.coming:
            self.step(self.coming.pop(0), plainly=plainly)

    def spend(self, bodies) -> None:
        for body in bodies:
            assert body not in self.spent, f"body {self.body[body]} is used twice"
            self.spent.add(body)

    def answered(self, effect: Answered, plain: bool) -> None:
        client, group = self.open.pop(effect.request)
        if not plain:
            self.out.append(f"{self.name(client)}: {effect.reply}")
        if isinstance(client, str):
            return
        both = effect.reply
        for reply in (both.pushed, both.pulled) if isinstance(both, PushPulled) else (both,):
            if isinstance(reply, Joined):
                stage = client.place and client.place.stage
                client.life = Life(client.rank, reply.epoch, reply.incarnation, stage)
                client.clock = {name: one.clock for name, one in reply.groups.items()}
                self.clients[str(client.life)] = client
            elif isinstance(reply, Granted):
                client.clock[group] = reply.clock
                client.grant[group] = (reply.version.number, reply.round)
            elif isinstance(reply, Pushed):
                client.clock[group] = reply.clock + 1 if reply.next_clock is None else reply.next_clock

    def name(self, client: Client | str) -> str:
        if isinstance(client, str):
            return client
        return client.name if self.clients[client.name] is client else str(client.life or f"an old {client.name}")

    def ask(self, who: str, message, *, plainly: bool = False, norm: float | None = None) -> int:
        self.requests += 1
        self.open[self.requests] = (self.clients.get(who, who), getattr(message, "group", "default"))
        clock = f"@{message.clock}" if isinstance(message, Push) else ""
        part = f" part {message.part + 1}" if isinstance(message, Push) and message.parts > 1 else ""
        self.body[self.requests] = f"{who}{clock}{part}"
        self.step(Asked(self.requests, message, norm), plainly=self.requests if plainly else None)
        return self.requests

    def life(self, name: str) -> Life:
        life = self.clients[name].life
        assert life, f"{name} has not joined"
        return life

    # Commands.

    def do_start(self, words: Words) -> None:
        terms = policy(words.options.get("policy", "async"))
        groups = [text.split(":") for text in words.listed("groups")] or [["default", "*"]]
        limit = words.number("max-iteration")
        least = words.number("least", 1)
        rule = {"least_updates": least, "needs_rounds": least > 1}
        for key, most in (("max-norm", "max_update_norm"), ("ratio", "max_update_norm_ratio")):
            rule |= {most: float(words.options[key])} if key in words.options else {}
        until = {name: int(clock) for name, clock in (text.split(":") for text in words.listed("until-of"))}
        self.settings = Settings(
            groups=tuple(GroupSettings(terms, name, (keys,), **rule, until=until.get(name)) for name, keys in groups),
            workers=words.number("workers", 1),
            lease_seconds=float(words.options.get("lease", 10)),
            max_iteration_seconds=None if limit is None else float(limit),
            until=words.number("until"),
            until_seconds=float(words.options["until-seconds"]) if "until-seconds" in words.options else None,
            until_metric=Goal.parse(words.options["until-metric"]) if "until-metric" in words.options else None,
            until_flat=Plateau.parse(words.options["until-flat"]) if "until-flat" in words.options else None,
        )
        self.machine = Machine(self.settings, epoch=1, now=self.now)

    def do_offer(self, words: Words, ask: bool = False) -> None:
        aliases = {name: (other,) for name, other in (pair.split(":") for pair in words.listed("aliases"))}
        specs = tuple(tensor(name) for name in words.names)
        offer = Offer(specs, ask, "whole" in words.options, words.options.get("group"), aliases)
        self.ask("offer", replace(offer, spread="spread" in words.options, holds=words.options.get("holds", "")))

    def do_init(self, words: Words) -> None:
        self.ask("init", Offer(tuple(tensor(name) for name in words.names), from_file=True))

    def do_ask(self, words: Words) -> None:
        self.do_offer(words, ask=True)

    def do_join(self, words: Words) -> None:
        for name in words.names * words.times:
            rank, _, stage = name.partition("/")
            place = self.place(int(stage), words) if stage else None
            self.processes += 1
            self.clients[name] = Client(rank, f"session-{self.processes}", place)
            self.ask(name, self.joining(self.clients[name], words))

    @staticmethod
    def place(stage: int, words: Words) -> Place:
        plan = dict(pair.split(":") for pair in words.listed("plan"))
        owned = words.listed("owned") or None
        keys = words.listed("keys") or owned
        return Place(stage, words.number("of", 2), f"http://stage-{stage}", plan, keys=keys, owned=owned)

    def do_rejoin(self, words: Words) -> None:
        for name in words.names:
            client = self.clients[name]
            if "owned" in words.options:
                client.place = self.place(client.place.stage, words)
            self.ask(name, self.joining(client, words))

    def joining(self, client: Client, words: Words) -> Join:
        groups, create = words.listed("groups") or None, words.listed("create")
        together = "one-after-another" in words.options
        wait = self.wait(words) if client.place else None
        return Join(client.rank, client.session, groups, create, together, place=client.place, wait_seconds=wait)

    def do_pull(self, words: Words, plainly: bool = False) -> int:
        (name,) = words.names
        since = Version.parse(words.options["since"]) if "since" in words.options else None
        pull = Pull(
            group=words.options.get("group", "default"),
            min_version=words.number("min-version", 0),
            since=since,
            wait_seconds=self.wait(words),
        )
        if name != "reader":
            clock = self.clients[name].clock.get(pull.group, 0) if words.clock is None else words.clock
            pull = replace(pull, life=self.life(name), clock=clock)
        return self.ask(name, pull, plainly=plainly)

    def do_push(self, words: Words, pull: bool = False, plainly: bool = False) -> None:
        (name,) = words.names
        client = self.clients[name]
        group = words.options.get("group", "default")
        version, in_round = client.grant.get(group, (self.machine.groups[group].published, None))
        part, parts = map(int, words.options.get("part", client.part).split("/"))
        kind = next(
            (UpdateKind(kind) for kind in ("delta", "model", "skip") if kind in words.options), UpdateKind.GRADIENT
        )
        if kind is UpdateKind.SKIP:
            part = parts = 1
        push = Push(
            self.life(name),
            client.clock.get(group, 0) if words.clock is None else words.clock,
            words.number("version", version),
            kind,
            samples=0 if kind is UpdateKind.SKIP else words.number("samples", 4),
            group=group,
            round=words.number("round", in_round),
            part=part - 1,
            parts=parts,
            keys=words.listed("keys"),
            pull=pull,
            wait_seconds=self.wait(words),
            metrics={name: float(value) for name, value in (pair.split(":") for pair in words.listed("figures"))},
        )
        client.pushes[push.clock, push.part] = push
        norm = float(words.options["norm"]) if "norm" in words.options else None
        self.ask(name, push, plainly=plainly, norm=norm)

    def do_pushpull(self, words: Words) -> None:
        self.do_push(words, pull=True)

    def do_skip(self, words: Words) -> None:
        words.options["skip"] = ""
        self.do_push(words)

    def do_step(self, words: Words) -> None:
        for _ in range(words.times):
            for name in words.names:
                request = self.do_pull(Words([name], words.options), plainly=True)
                if request in self.open:
                    return
                self.do_push(Words([name], words.options), plainly=True)

    def do_resend(self, words: Words) -> None:
        (name,) = words.names
        pushes = self.clients[name].pushes
        part = int(words.options.get("part", self.clients[name].part).split("/")[0]) - 1
        clock = max(clock for clock, _ in pushes) if words.clock is None else words.clock
        self.ask(name, pushes[clock, part])

    def do_leave(self, words: Words) -> None:
        for name in words.names:
            self.ask(name, Leave(self.life(name)))

    def do_heartbeat(self, words: Words) -> None:
        for name in words.names:
            self.ask(name, Heartbeat(self.life(name)))

    def do_gone(self, words: Words) -> None:
        for name in words.names:
            request = max(request for request, (who, _) in self.open.items() if who == self.clients.get(name, name))
            del self.open[request]
            self.step(Gone(request))

    def do_barrier(self, words: Words) -> None:
        barrier, *names = words.names
        generation, parties = words.number("generation", 0), words.number("parties", 1)
        for name in names:
            self.ask(name, Barrier(self.life(name), barrier, generation, parties, self.wait(words)))

    def do_quarantine(self, words: Words) -> None:
        rank, why = words.names
        self.ask("admin", Quarantine(rank, why))

    def do_release(self, words: Words) -> None:
        self.ask("admin", Release(words.names[0]))

    def do_policy(self, words: Words) -> None:
        self.ask("policy", SetPolicy(policy(words.names[0]), words.options.get("group", "default")))

    def do_status(self, _: Words) -> None:
        status = describe.status(self.machine, self.now)
        for forming in status["forming"]:
            self.out.append(f"{forming['rank']} waits for stages {forming['missing']} of {forming['stages']}")
        for kept_out in status["quarantine"]:
            self.out.append(f"{kept_out['rank']} is kept out: {kept_out['why']}")
        for worker in status["workers"]:
            if "stages" in worker:
                self.out.append(f"{worker['rank']}: {', '.join(stage['state'] for stage in worker['stages'])}")
            for name, group in worker["groups"].items():
                why = group.get("why")
                told = (
                    f"waits, {why['reason']}, for {','.join(why['waiting_for']) or 'nobody'}" if why else group["state"]
                )
                self.out.append(f"{worker['rank']} {told}" + (f" in {name}" if len(worker["groups"]) > 1 else ""))

    def do_advance(self, words: Words) -> None:
        self.now += float(words.names[0])
        self.step(Tick())

    def do_pause(self, words: Words) -> None:
        self.now += float(words.names[0])
        self.step(Paused(float(words.names[0])))

    def do_hold(self, _: Words) -> None:
        self.holding = True

    def do_publish(self, words: Words) -> None:
        if words.names == ["all"]:
            self.holding = False
            self.publish()
        else:
            self.step(self.coming.pop(0))

    def do_fail(self, _: Words) -> None:
        coming = self.coming.pop(0)
        self.step(Failed(coming.group, coming.number))

    def do_stop(self, _: Words) -> None:
        self.step(Stop())

    def do_save(self, _: Words) -> None:
        state, bodies = save(self.machine)
        self.saved = json.dumps(state), bodies

    def do_restart(self, words: Words) -> None:
        clean = words.names == ["clean"]
        if clean:
            self.do_save(words)
        self.coming.clear()
        self.open.clear()
        epoch = self.machine.epoch + (0 if clean else 1)
        if self.saved is None:
            self.machine = Machine(self.settings, epoch, self.now)
            return
        text, bodies = self.saved
        numbers = range(self.requests + 1, self.requests + 1 + len(bodies))
        self.requests += len(bodies)
        self.body |= {number: self.body[old] for number, old in zip(numbers, bodies, strict=True)}
        self.machine = restore(self.settings, json.loads(text), list(numbers), epoch, self.now)

    @staticmethod
    def wait(words: Words) -> float | None:
        return None if "no-wait" in words.options else float(words.options.get("wait", 100))


def replay(text: str) -> str:
    """The scenario with what comes of it today."""
    scenario, lines, commands = Scenario(), [], []
    given = iter(text.splitlines())
    for line in given:
        if line != "----":
            lines.append(line)
            if line and not line.startswith("#"):
                commands.append(line)
            continue
        lines += ["----", *scenario.run(commands), ""]
        commands = []
        for _ in iter(lambda: next(given, ""), ""):
            pass
    assert not commands, f"these commands have no result below them: {commands}"
    return "\n".join(lines).rstrip("\n") + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path, rewrite: bool):
    text = path.read_text()
    result = replay(text)
    if rewrite:
        path.write_text(result)
    else:
        assert result == text


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_scenario_says_first_which_rule_it_shows(path: Path):
    assert path.read_text().startswith("# ")
