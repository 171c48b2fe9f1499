"""A worker process: its conversations, the time its computing takes, its heartbeat, and its deaths.

The one rule: all that is decided of what is sent and heard is decided by the conversations; this only carries, waits,
and steps one group after the other, as a training loop does.
Every update has a number of its own, which travels as its `samples`: so it is known again wherever it turns up.
"""

from dataclasses import dataclass
from itertools import count

from leeway.errors import WireError
from leeway.protocol.membership import Heartbeat
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.worker.session.conversation import Conversation
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import Ending, State
from tests.known import Violated
from tests.simulation.mortal import Mortal

SPECS = (TensorSpec("weight", (2,), "float32", Kind.TRAINABLE),)
# Beyond the wait that the server was asked for: then the connection counts as dead.
PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Loop:
    """How a process trains. `groups`: what it steps, in this order; `create`: those of them that it makes where they
    are not there yet. `ahead`: it pulls all before the first step, and with each step what the next one of that group
    needs; else a step is a pull and a push. `slow_seconds`: the mean time of an iteration.
    `waits_seconds`: of which it draws how long its pulls may be parked.
    """

    slow_seconds: float
    waits_seconds: tuple[float | None, ...] = (None, 3.0, 6.0)
    groups: tuple[str, ...] = (DEFAULT_GROUP,)
    create: tuple[str, ...] = ()
    ahead: bool = True


class Process(Mortal):
    """`specs`: by group, what it declares."""

    def __init__(self, world, rank: str, name: str, loop: Loop, specs=None) -> None:
        super().__init__(world)
        self.rank, self.name, self.loop = rank, name, loop
        numbers = count()
        shared = SharedLife(rank, lambda: f"{name}-{next(numbers)}", one_after_another=True)
        shared.create = loop.create
        wait_seconds = world.random.choice(loop.waits_seconds)
        self.conversations = [
            Conversation(shared, random=world.random, group=group, wait_seconds=wait_seconds) for group in loop.groups
        ]
        for conversation in self.conversations:
            conversation.offer((specs or {DEFAULT_GROUP: SPECS})[conversation.group], whole=True)
        # Whose turn it is; the groups not pulled yet before the first step; and whether this turn's update is computed.
        self.conversation = self.conversations[0]
        self.unattached = len(self.conversations) if loop.ahead else 0
        self.stepped = False
        self.gave_way = False
        self.asking = None
        self.computing = False
        self.in_hand = None
        self._last_sent = 0.0
        self.go_on()
        self._beat()

    @property
    def ended(self) -> bool:
        return not self.alive or all(one.state is State.ENDED for one in self.conversations)

    @property
    def endings(self) -> set[Ending | None]:
        return {conversation.ending for conversation in self.conversations}

    def wakes(self, action) -> None:
        action()
        self.world.invariants.heard_by(self)

    def _take_turns(self) -> None:
        """Go on to the next group that is stepped, or to the goodbye, when this one's turn is over."""
        while self._turn_is_over():
            self.unattached -= self.unattached > 0
            self.stepped = False
            place = self.conversations.index(self.conversation) + 1
            others = self.conversations[place:] + self.conversations[:place]
            going = [one for one in others if one.ending is None] or [
                one for one in others if one.state is not State.ENDED
            ]
            if not going:
                return
            self.conversation = going[0]

    def _turn_is_over(self) -> bool:
        conversation = self.conversation
        if conversation.ending is not None:
            return conversation.state is State.ENDED
        if self.unattached:
            return conversation.state is State.COMPUTING
        if self.loop.ahead:
            return self.stepped and conversation.state is State.COMPUTING
        return self.stepped and not conversation.in_hand

    def go_on(self) -> None:
        self._take_turns()
        conversation = self.conversation
        if conversation.ending is Ending.DEADLOCK and not self.gave_way:
            self.gave_way = True
            self.world.gave_way(self)
        ask = conversation.ask()
        if ask is not None and ask is not self.asking:
            self.asking = ask
            self.world.clock.after(conversation.delay_seconds, lambda: self.when_awake(lambda: self._send(ask)))
        elif conversation.state is State.COMPUTING and not self.computing:
            self.computing = True
            seconds = self.world.random.expovariate(1.0 / self.loop.slow_seconds)
            self.world.clock.after(seconds, lambda: self.when_awake(self._computed))

    def _send(self, ask) -> None:
        if self.asking is not ask or self.conversation.ask() is not ask:
            self.go_on()
            return
        self._last_sent = self.world.clock.now
        waits = getattr(ask, "wait_seconds", None) or 0.0
        self.world.send(self, ask)
        self.world.clock.after(waits + PATIENCE_SECONDS, lambda: self.when_awake(lambda: self.lost(ask)))

    def hears(self, ask, reply) -> None:
        """A reply has come; maybe for the second time, maybe long after it was given up."""

        def take() -> None:
            # A heartbeat's refusal is not told to the conversation: it learns the same from what it asks next.
            if not isinstance(ask, Heartbeat):
                try:
                    self.conversation.answered(ask, reply)
                except WireError as error:
                    raise Violated(f"no worker is told of a mistake: {self.name}, {error}") from error
                self.go_on()

        self.when_awake(take)

    def lost(self, ask) -> None:
        if self.asking is ask and self.conversation.ask() is ask:
            self.world.hang_up(self, ask)
            self.conversation.lost()
            self.go_on()

    def _computed(self) -> None:
        self.computing = False
        if self.conversation.state is not State.COMPUTING:
            return  # it has left in the meantime
        random = self.world.random
        pull = random.random() < 0.8 and self.loop.ahead
        self.stepped = True
        self.in_hand = self.world.new_update(self)
        if random.random() < 0.1:
            self.conversation.skip(pull=pull)
        else:
            self.conversation.computed(UpdateKind.GRADIENT, self.in_hand, ("weight",), pull=pull)
        self.go_on()

    def _beat(self) -> None:
        """What the client does beside the conversation: a heartbeat while nothing else is sent."""
        if self.ended:
            return
        clock, every = self.world.clock, self.world.settings.lease_seconds / 3
        silent = clock.now - self._last_sent >= every
        if self.conversation.life and silent and self.hung_until <= clock.now:
            self.world.send(self, Heartbeat(self.conversation.life))
        clock.after(every, self._beat)

    def leave(self) -> None:
        self.when_awake(lambda: (self.conversation.leave(), self.go_on()))
