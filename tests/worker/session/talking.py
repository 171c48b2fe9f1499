"""A conversation that has come to a state, and what a server says to it."""

import random

from leeway.protocol.membership import GroupState, Joined
from leeway.protocol.pulls import Granted
from leeway.protocol.pushes import Disposition, Pushed, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.versions import Version
from leeway.worker.session.conversation import Conversation
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import State

WEIGHT = TensorSpec("weight", (2, 3), "float32", Kind.TRAINABLE)
BIAS = TensorSpec("bias", (2,), "float32", Kind.TRAINABLE)


def joined(*, epoch=7, incarnation=1, resumed=False, clock=0, last=None, specs=(WEIGHT,), until=None, whole=False):
    group = GroupState(clock, "ssp(3)", last, tuple(specs), whole)
    return Joined(epoch, incarnation, resumed, 10.0, 1, 4, {"default": group}, {"eval": 2}, until)


def granted(clock=0, number=5, *, epoch=7, round=None):
    return Granted(Version(epoch, number), Reason.GRANTED, clock=clock, round=round, lag=1, index=2, count=3)


def pushed(clock=0, disposition=Disposition.APPLIED, reason=Reason.ON_ARRIVAL):
    return Pushed(clock, disposition, reason, 6, 0)


def session(wait_seconds=20.0):
    numbers = iter(range(1, 100))
    shared = SharedLife("w0", lambda: f"s{next(numbers)}")
    return Conversation(shared, random=random.Random(1), wait_seconds=wait_seconds)


def tell(session, reply, **more):
    session.answered(session.ask(), reply, **more)


def at(state, *, clock=0, until=None, wait_seconds=20.0):
    """A session that has come to this state the plain way."""
    it = session(wait_seconds)
    if state is State.JOINING:
        return it
    tell(it, joined(clock=clock, until=until))
    if state is State.PULLING:
        return it
    tell(it, granted(clock))
    if state is State.PUSHING:
        it.computed(UpdateKind.GRADIENT, 32, ("weight",), {"loss": 0.5})
    elif state is State.LEAVING:
        it.leave()
    assert it.state is state
    return it
