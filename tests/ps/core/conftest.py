from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from leeway.protocol.lives import Life
from leeway.protocol.membership import Join
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, PushPulled, UpdateKind
from leeway.protocol.refusals import Refused
from leeway.protocol.replicas import Place
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core.effects import Adopt, Answered, Apply, Effect, Initialize
from leeway.ps.core.events import Asked, Event, Published, Tick
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import GroupSettings, Settings

if TYPE_CHECKING:
    from leeway.protocol.codes import Code
    from leeway.protocol.messages import Reply


class Server:
    """A machine whose versions come out at once, unless `holding`. Requests are numbered from 1."""

    def __init__(self, settings: Settings, epoch: int = 1) -> None:
        self.machine = Machine(settings, epoch)
        self.now = 0.0
        self.requests = 0
        self.holding = False
        self.coming: list[Published] = []
        self.replies: dict[int, Reply] = {}
        # Of the last event, and of the versions that it led to.
        self.effects: list[Effect] = []

    def step(self, event: Event) -> list[Effect]:
        effects = self.machine.step(event, self.now)
        for effect in effects:
            if isinstance(effect, (Adopt, Apply, Initialize)):
                self.coming.append(Published(effect.group, effect.number))
            elif isinstance(effect, Answered):
                assert effect.request not in self.replies
                self.replies[effect.request] = effect.reply
        if not self.holding:
            effects = effects + self.publish()
        self.effects = effects
        return effects

    def publish(self) -> list[Effect]:
        effects: list[Effect] = []
        while self.coming:
            effects += self.step(self.coming.pop(0))
        return effects

    def send(self, message: Any) -> int:
        """Ask, and do not wait for the reply: the number of the request."""
        self.requests += 1
        self.step(Asked(self.requests, message))
        return self.requests

    def ask(self, message: Any) -> Any:
        """The reply; None while it is parked."""
        return self.replies.get(self.send(message))

    def tick(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.step(Tick())

    # What is asked most often.

    def join(self, rank: str, session: str | None = None, groups: tuple[str, ...] | None = None) -> Life:
        joined = self.ask(Join(rank, session or f"{rank}-session", groups))
        return Life(rank, joined.epoch, joined.incarnation)

    def sit(self, stage: int, of: int = 2, rank: str = "r0", session: str | None = None, **more: Any) -> int:
        """A stage of a replica joins: the number of its request. `more`: of its place, and how long it waits."""
        wait_seconds = more.pop("wait_seconds", 100.0)
        groups = more.pop("groups", None)
        place = Place(stage, of, f"http://{rank}-{stage}", **more)
        join = Join(rank, session or f"{rank}/{stage}", groups, place=place, wait_seconds=wait_seconds)
        return self.send(join)

    def replica(self, of: int = 2, rank: str = "r0", **more: Any) -> list[Life]:
        """All its stages join: the life, as each of them names it."""
        requests = [self.sit(stage, of, rank, **more) for stage in range(of)]
        incarnations = [self.replies[request].incarnation for request in requests]
        return [Life(rank, self.machine.epoch, number, stage) for stage, number in enumerate(incarnations)]

    def offer(self, *names: str) -> Any:
        return self.ask(Offer(tuple(TensorSpec(name, (3,), "float32", Kind.TRAINABLE) for name in names or ("w",))))

    def pull(self, life: Life, clock: int = 0, **more: Any) -> Any:
        return self.ask(Pull(life=life, clock=clock, **({"wait_seconds": 100.0} | more)))

    def push(self, life: Life, clock: int = 0, **more: Any) -> Any:
        """From the last grant, unless a version is named."""
        member = self.machine.membership.find(life)
        grants = member.groups[more.get("group", "default")].grants if member else ()
        version, round_number = grants[-1] if grants else (1, None)
        kind = more.get("kind", UpdateKind.GRADIENT)
        settled = {"version": version, "round": round_number, "kind": kind, "wait_seconds": 100.0}
        if member and member.is_replica and kind is not UpdateKind.SKIP:
            settled |= {"part": life.stage, "parts": member.stages}
        return self.ask(Push(life, clock, **(settled | {"samples": 0 if kind is UpdateKind.SKIP else 4} | more)))

    def iterate(self, lives: list[Life]) -> None:
        """The stages of a replica pull, and then they push."""
        for life in lives:
            self.pull(life)
        for life in lives:
            self.push(life)

    def walk(self, life: Life, clock: int = 0) -> Any:
        """A granted pull and its push."""
        self.pull(life, clock)
        reply = self.push(life, clock)
        return reply.pushed if isinstance(reply, PushPulled) else reply


def code(reply: Any) -> Code:
    """Of a refusal."""
    assert isinstance(reply, Refused), reply
    return reply.error.code


@pytest.fixture
def serve():
    def start(mode: str = "async", staleness: int | None = None, **settings: Any) -> Server:
        groups = settings.pop("groups", (GroupSettings(PolicyTerms(mode, staleness)),))
        return Server(Settings(groups=groups, **settings))

    return start
