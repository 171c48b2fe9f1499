"""Runs of the server's state machine with a clock of its own, and the histories that a server would write of them."""

from __future__ import annotations

from typing import Any

from leeway.protocol.barriers import Barrier
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join
from leeway.protocol.offers import Offer
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core.effects import Adopt, Answered, Apply, Effect, Initialize
from leeway.ps.core.events import Asked, Event, Published
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import GroupSettings, Settings
from leeway.ps.watching.history import plain


class Recorder:
    """The server's state machine with a clock of its own, and the history that a server would write."""

    def __init__(self, mode: str, workers: int, staleness: int | None = None) -> None:
        self._machine = Machine(Settings((GroupSettings(PolicyTerms(mode, staleness)),), workers=workers), 7)
        self.now = 0.0
        self.rows: list[dict[str, Any]] = [{"is": "Started", "epoch": 7}]
        self.status: dict[str, Any] = {}
        self._requests = 0
        self._lives: dict[str, Life] = {}
        self._versions: dict[str, tuple[int, int | None]] = {}

    def join(self, *ranks: str) -> None:
        for rank in ranks:
            joined = self._ask(Join(rank, f"{rank}-session"))
            self._lives[rank] = Life(rank, joined.epoch, joined.incarnation)

    def offer(self) -> None:
        self._ask(Offer((TensorSpec("w", (3,), "float32", Kind.TRAINABLE),)))

    def barrier(self, rank: str, parties: int) -> None:
        self._ask(Barrier(self._lives[rank], "start", 0, parties, wait_seconds=100.0))

    def pull(self, rank: str, clock: int = 0) -> None:
        self._ask(Pull(life=self._lives[rank], clock=clock, wait_seconds=100.0))

    def read(self) -> None:
        self._ask(Pull())

    def step(self, rank: str, clock: int, version: int, round_number: int | None = None) -> None:
        """Push the update of this iteration, computed from that version, and ask for the next parameters."""
        life = self._lives[rank]
        push = Push(life, clock, version, UpdateKind.GRADIENT, 4, round=round_number, pull=True, wait_seconds=100.0)
        self._ask(push)

    def _ask(self, message: Any) -> Any:
        self._requests += 1
        request = self._requests
        replies = [
            effect.reply
            for effect in self._happen(Asked(request, message))
            if isinstance(effect, Answered) and effect.request == request
        ]
        return replies[0] if replies else None

    def _happen(self, event: Event) -> list[Effect]:
        effects = self._machine.step(event, self.now)
        self.rows.append({"t": self.now, "event": plain(event), "effects": [plain(effect) for effect in effects]})
        for effect in list(effects):
            if isinstance(effect, (Adopt, Apply, Initialize)):
                effects = effects + self._happen(Published(effect.group, effect.number))
        return effects


def ssp_rows() -> list[dict[str, Any]]:
    """w0 and w1 under ssp with bound 1. From second 10 on: w0 is fast and waits from 12 to 15 for w1.

    w0: iteration 0 from 10 to 11, 1 from 11 to 12, waits until 15, 2 from 15 to 16. w1: 0 from 10 to 15, 1 from 15
    to 20.
    """
    run = Recorder("ssp", workers=2, staleness=1)
    run.now = 5.0
    run.join("w0")
    run.offer()
    run.pull("w0")
    run.barrier("w0", parties=2)
    run.read()
    run.now = 10.0
    run.join("w1")
    run.pull("w1")
    run.barrier("w1", parties=2)
    run.now = 11.0
    run.step("w0", 0, version=1)
    run.now = 12.0
    run.step("w0", 1, version=2)
    run.now = 15.0
    run.step("w1", 0, version=1)
    run.now = 16.0
    run.step("w0", 2, version=4)
    run.now = 20.0
    run.step("w1", 1, version=4)
    return run.rows


def sync_rows() -> list[dict[str, Any]]:
    """w0 and w1 under sync, two rounds: from second 2, w0 takes 1 s an iteration and w1 4 s."""
    run = Recorder("sync", workers=2)
    run.now = 1.0
    run.join("w0")
    run.offer()
    run.pull("w0")
    run.now = 2.0
    run.join("w1")
    run.pull("w1")
    for number, begin in enumerate((2.0, 6.0)):
        run.now = begin + 1.0
        run.step("w0", number, version=number + 1, round_number=number)
        run.now = begin + 4.0
        run.step("w1", number, version=number + 1, round_number=number)
    return run.rows
