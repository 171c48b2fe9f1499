"""A worker process: a `Conversation`, the time its computing takes, its heartbeat, and its deaths.

The one rule: all that is decided of what is sent and heard is decided by the conversation; this only carries and waits.
Every update has a number of its own, which travels as its `samples`: so it is known again wherever it turns up.
"""

from itertools import count

from leeway.protocol.membership import Heartbeat
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.worker.session.conversation import Conversation
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import State

SPECS = (TensorSpec("weight", (2,), "float32", Kind.TRAINABLE),)
# Beyond the wait that the server was asked for: then the connection counts as dead.
PATIENCE_SECONDS = 2.0


class Process:
    """`slow_seconds`: the mean time of an iteration."""

    def __init__(self, world, rank: str, name: str, slow_seconds: float) -> None:
        self.world, self.rank, self.name, self.slow_seconds = world, rank, name, slow_seconds
        self.alive = True
        # Dead or left for good: the rank need not reach the end.
        self.gone = False
        self.hung_until = 0.0
        numbers = count()
        self.conversation = Conversation(
            SharedLife(rank, lambda: f"{name}-{next(numbers)}"),
            random=world.random,
            wait_seconds=world.random.choice((None, 3.0, 6.0)),
        )
        self.conversation.offer(SPECS, whole=True)
        self.asking = None
        self.computing = False
        self.in_hand = None
        self.outcomes = 0
        self._last_sent = 0.0
        self.go_on()
        self._beat()

    @property
    def ended(self) -> bool:
        return not self.alive or self.conversation.state is State.ENDED

    def kill(self) -> None:
        self.alive = False
        self.world.forget(self)

    def hang(self, seconds: float) -> None:
        self.hung_until = self.world.clock.now + seconds

    def when_awake(self, action) -> None:
        """Whatever comes while the process hangs is found when it wakes."""
        clock = self.world.clock
        if self.alive and self.hung_until > clock.now:
            clock.after(self.hung_until - clock.now, lambda: self.when_awake(action))
        elif self.alive:
            action()
            self.world.invariants.conversation(self)

    def go_on(self) -> None:
        conversation = self.conversation
        ask = conversation.ask()
        if ask is not None and ask is not self.asking:
            self.asking = ask
            self.world.clock.after(conversation.delay_seconds, lambda: self.when_awake(lambda: self._send(ask)))
        elif conversation.state is State.COMPUTING and not self.computing:
            self.computing = True
            seconds = self.world.random.expovariate(1.0 / self.slow_seconds)
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
                self.conversation.answered(ask, reply)
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
        pull = random.random() < 0.8
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
