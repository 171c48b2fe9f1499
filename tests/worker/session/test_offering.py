"""What a conversation offers, and asks before."""

import random

import pytest

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.membership import GroupState, Joined
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.pulls import NotYet, Pull
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import refuse
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.worker.session.conversation import Conversation
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import Outcome, State
from tests.worker.session.talking import BIAS, WEIGHT, at, granted, joined, session, tell


def test_what_the_server_lacks_is_offered_and_what_it_wants_is_sent():
    it = session()
    it.offer([WEIGHT, BIAS])
    tell(it, joined())
    assert it.ask() == Offer((WEIGHT, BIAS), ask=True, group="default")
    tell(it, Offered((), ("weight",), ("bias",)))
    assert it.ask() == Offer((BIAS,), group="default")
    it.lost()
    assert it.ask() == Offer((BIAS,), group="default")
    tell(it, Offered(("bias",), ()))
    assert isinstance(it.ask(), Pull)
    assert set(it.specs) == {WEIGHT, BIAS}


def test_somebody_else_was_faster():
    it = session()
    it.offer([WEIGHT, BIAS])
    tell(it, joined())
    tell(it, Offered((), ("weight", "bias"), ()))
    assert isinstance(it.ask(), Pull)


def test_nothing_is_offered_to_a_server_that_has_it_all():
    it = session()
    it.offer([WEIGHT])
    tell(it, joined())
    assert isinstance(it.ask(), Pull)


@pytest.mark.parametrize("state", [State.PULLING, State.COMPUTING])
def test_an_offer_after_joining(state):
    it = at(state)
    it.offer([BIAS])
    assert it.ask() == Offer((BIAS,), ask=True, group="default")
    assert it.grant is None


def test_a_server_that_has_lost_its_state_is_offered_the_values_again():
    it = session()
    it.offer([WEIGHT])
    tell(it, joined())
    tell(it, granted())
    it.computed(UpdateKind.GRADIENT, 1, ("weight",))
    tell(it, refuse(Code.OLD_EPOCH, "epoch 7 is over", epoch=8))
    tell(it, joined(epoch=8, specs=()))
    assert it.outcome == Outcome(0, None, Code.OLD_EPOCH)
    assert it.ask() == Offer((WEIGHT,), ask=True, group="default")


def test_a_conflicting_schema_is_for_the_user():
    it = session()
    it.offer([TensorSpec("weight", (3, 3), "float32", Kind.TRAINABLE)])
    tell(it, joined())
    with pytest.raises(WireError, match="schema-conflict"):
        tell(it, refuse(Code.SCHEMA_CONFLICT, "weight is float32[2,3]"))


OTHER = TensorSpec("other", (2,), "float32", Kind.TRAINABLE)


@pytest.mark.parametrize(
    ("there", "declared", "asks"),
    [
        (((WEIGHT, BIAS), True), (WEIGHT, BIAS), False),
        (((WEIGHT, BIAS), True), (BIAS, WEIGHT), False),
        # A group that nobody has declared as a whole yet may still grow.
        (((WEIGHT, BIAS), False), (WEIGHT, BIAS), True),
        # A layer fewer, a layer more, another one.
        (((WEIGHT, BIAS), True), (WEIGHT,), True),
        (((WEIGHT,), True), (WEIGHT, BIAS), True),
        (((WEIGHT, BIAS), True), (WEIGHT, OTHER), True),
    ],
)
def test_a_whole_model_is_compared_with_what_the_server_has(there, declared, asks):
    it = session()
    it.offer(declared, whole=True, aliases={"weight": ("twin",)})
    tell(it, joined(specs=there[0], whole=there[1]))
    question = Offer(declared, ask=True, whole=True, group="default", aliases={"weight": ("twin",)})
    assert it.ask() == question if asks else isinstance(it.ask(), Pull)


def test_a_question_that_was_lost_is_asked_anew():
    it = session()
    it.offer((WEIGHT, BIAS), whole=True)
    tell(it, joined(specs=()))
    lost = it.ask()
    it.lost()
    assert it.ask() == lost
    assert it.ask() is not lost
    it.answered(lost, Offered((), (), ("weight", "bias")))
    assert it.ask().ask


def test_a_whole_model_goes_up_with_what_the_question_said():
    it = session()
    it.offer((WEIGHT, BIAS), whole=True, aliases={"weight": ("twin",)})
    tell(it, joined(specs=()))
    tell(it, Offered((), (), ("weight", "bias")))
    aliases = {"weight": ("twin",)}
    assert it.ask() == Offer((WEIGHT, BIAS), whole=True, group="default", aliases=aliases)
    tell(it, Offered(("weight", "bias"), ()))
    assert set(it.specs) == {WEIGHT, BIAS}


def test_what_is_wanted_of_a_whole_model_is_not_all_keys():
    """The stages of a replica offer the others."""
    it = session()
    it.offer((WEIGHT, BIAS), whole=True)
    tell(it, joined(specs=()))
    tell(it, Offered((), ("weight",), ("bias",)))
    assert it.ask() == Offer((BIAS,), whole=False, group="default")


def test_another_model_is_for_the_user_and_can_be_exchanged():
    it = session()
    it.offer((WEIGHT,), whole=True)
    tell(it, joined(specs=(WEIGHT, BIAS), whole=True))
    with pytest.raises(WireError, match="schema-conflict"):
        tell(it, refuse(Code.SCHEMA_CONFLICT, "this model lacks 1 key (bias)"))
    it.offer((WEIGHT, BIAS), whole=True)
    assert isinstance(it.ask(), Pull)


def test_parameters_that_nobody_has_are_offered_again():
    """Another worker was storing them when this one joined, and the server failed to."""
    session = Conversation(SharedLife("w0", lambda: "s"), random=random.Random(1))
    specs = (TensorSpec("w", (3,), "float32", Kind.TRAINABLE),)
    session.offer(specs)
    life = {"epoch": 1, "incarnation": 1, "resumed": False, "lease_seconds": 9.0, "index": 0, "count": 1}
    session.answered(session.ask(), Joined(groups={"default": GroupState(0, "async", specs=specs)}, **life))
    session.answered(session.ask(), NotYet(Reason.NO_PARAMETERS, "nobody has offered any"))
    assert session.ask() == Offer(specs, ask=True, group="default")
