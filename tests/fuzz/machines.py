"""A machine behind the mapping, in this process: requests in, replies out, versions that are there at once.

The one rule: its state is what it was asked, so that an input that is found is all that is needed to find it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.policy_terms import PolicyTerms
from leeway.ps.core.effects import Adopt, Answered, Apply, Initialize
from leeway.ps.core.events import Asked, Published, Tick
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import GroupSettings, Settings

if TYPE_CHECKING:
    from leeway.protocol.messages import Reply, Request
    from leeway.ps.core.events import Event

SETTINGS = Settings((GroupSettings(PolicyTerms("async")), GroupSettings(PolicyTerms("sync"), "other", ("o*",))))


class Asking:
    """`machine`: asked one request after another, as if each came a second after the one before."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or Machine(SETTINGS, 1)
        self.now = 0.0
        self.requests = 0
        self.replies: dict[int, Reply] = {}

    def ask(self, request: Request) -> Reply | None:
        """The reply; None while it is parked."""
        self.requests += 1
        self._step(Asked(self.requests, request))
        return self.replies.get(self.requests)

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self._step(Tick())

    def _step(self, first: Event) -> None:
        events = [first]
        while events:
            for effect in self.machine.step(events.pop(0), self.now):
                match effect:
                    case Apply() | Adopt() | Initialize():
                        events.append(Published(effect.group, effect.number))
                    case Answered(request, reply):
                        assert request not in self.replies, "answered twice"
                        self.replies[request] = reply
