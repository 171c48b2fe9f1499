"""Offers as the machine judges them; the scenarios `whole_offers*`, `initial_values*` and `offers` tell the rest."""

import itertools

import pytest

from leeway.protocol import limits
from leeway.protocol.capacity import Capacity
from leeway.protocol.codes import Code
from leeway.protocol.lives import Life
from leeway.protocol.membership import Join
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.policy_terms import PolicyTerms
from leeway.protocol.pulls import Pull
from leeway.protocol.pushes import Push, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core.effects import Adopt, Answered, Drop
from leeway.ps.core.events import Asked, Failed, Published
from leeway.ps.core.machine import Machine
from leeway.ps.core.settings import GroupSettings, Settings


def spec(name, shape=(3,)):
    return TensorSpec(name, shape, "float32", Kind.TRAINABLE)


# Numbers the requests of all machines.
REQUESTS = itertools.count(1)


def ask(machine, offer):
    return machine.step(Asked(next(REQUESTS), offer), 0.0)


def reply(effects):
    (found,) = [effect.reply for effect in effects if isinstance(effect, Answered)]
    return found


def names(*some):
    return tuple(spec(name) for name in some)


def test_an_empty_question_about_the_whole_declares_nothing():
    machine = Machine(Settings(), 1)
    assert reply(ask(machine, Offer((), ask=True, whole=True))) == Offered((), ())
    assert not machine.groups["default"].whole


def test_both_lists_are_facts_of_the_refusal():
    machine = Machine(Settings(), 1)
    ask(machine, Offer(names("w", "b"), whole=True))
    refused = reply(ask(machine, Offer(names("w", "c"), whole=True)))
    assert isinstance(refused, Refused)
    assert refused.error.code is Code.SCHEMA_CONFLICT
    assert refused.error.facts == {
        "group": "default",
        "missing": ["b"],
        "missing_count": 1,
        "extra": ["c"],
        "extra_count": 1,
    }


@pytest.mark.parametrize("ask_first", [True, False])
@pytest.mark.parametrize(
    ("capacity", "offered", "words"),
    [
        (Capacity(max_body_bytes=127), [spec("w"), spec("b")], "128 bytes in one body"),
        (Capacity(max_schema_bytes=limits.MAX_JSON_BYTES // 16), [spec("w" * 400)] * 1, "join reply"),
    ],
)
def test_what_makes_the_group_too_large_is_refused(capacity, offered, words, ask_first):
    machine = Machine(Settings(capacity=capacity), 1)
    refused = reply(ask(machine, Offer(tuple(offered), ask=ask_first)))
    assert isinstance(refused, Refused)
    assert refused.error.code is Code.SCHEMA_TOO_LARGE
    assert words in refused.error.detail
    assert not machine.groups["default"].specs


def test_the_sum_of_several_offers_counts():
    machine = Machine(Settings(capacity=Capacity(max_body_bytes=128)), 1)
    assert isinstance(reply(ask(machine, Offer(names("w"), ask=True))), Offered)
    ask(machine, Offer(names("w")))
    ask(machine, Offer(names("b")))
    refused = reply(ask(machine, Offer(names("c"))))
    assert isinstance(refused, Refused)
    assert refused.error.code is Code.SCHEMA_TOO_LARGE


def test_so_does_the_sum_of_the_groups():
    groups = (GroupSettings(name="a", keys=("a*",)), GroupSettings(name="b", keys=("*",)))
    machine = Machine(Settings(groups, capacity=Capacity(max_schema_bytes=256 * 1024 + 600)), 1)
    ask(machine, Offer((spec("a" * 400),)))
    refused = reply(ask(machine, Offer((spec("b" * 400),))))
    assert isinstance(refused, Refused)
    assert "the groups of this server would have" in refused.error.detail


def test_a_file_that_was_adopted_is_answered_when_that_is_published():
    machine = Machine(Settings(), 1)
    ask(machine, Offer(names("module.w"), from_file=True))
    machine.groups["default"].published_is(1, 0.0)
    effects = ask(machine, Offer(names("w"), ask=True, whole=True))
    (adopted,) = [effect for effect in effects if isinstance(effect, Adopt)]
    assert adopted.sources == {"w": "module.w"}
    assert not any(isinstance(effect, Answered) for effect in effects)


def test_twins_are_told_to_whoever_can_compare_values():
    machine = Machine(Settings(), 1)
    ask(machine, Offer(names("emb", "head"), from_file=True))
    plan = machine.judge_offer(Offer(names("emb"), whole=True, aliases={"emb": ("head",)}))
    assert plan.twins == [("default", "emb", "head")]


GROUPS = (GroupSettings(PolicyTerms("async"), "emb", ("emb*",)), GroupSettings(PolicyTerms("async"), "rest", ("r*",)))


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        (Offer(names("r"), whole=True), Code.UNKNOWN_GROUP),
        (Offer(names("r"), group="none"), Code.UNKNOWN_GROUP),
        (Offer(names("x")), Code.UNKNOWN_TENSOR),
        (Offer(names("x"), whole=True, group="rest"), Code.UNKNOWN_TENSOR),
        (Offer(names("r", "emb"), whole=True, group="rest"), Code.SCHEMA_CONFLICT),
        (Offer(names("emb"), group="rest"), Code.SCHEMA_CONFLICT),
    ],
)
def test_an_offer_is_about_one_group_that_there_is(offer, code):
    machine = Machine(Settings(GROUPS), 1)
    refused = reply(ask(machine, offer))
    assert isinstance(refused, Refused)
    assert refused.error.code is code
    assert not any(group.specs for group in machine.groups.values())


@pytest.mark.parametrize(
    ("keys_of_default", "code", "begins"),
    [
        (
            "*",
            Code.SCHEMA_CONFLICT,
            "tensor 'G/w' is of group 'default' (*), and this offer is about group 'G' (e*)",
        ),
        ("w", Code.UNKNOWN_TENSOR, "no group holds a tensor named 'G/w'"),
    ],
)
def test_a_table_that_does_not_take_the_keys_of_the_part_of_its_name_is_told(keys_of_default, code, begins):
    policy = PolicyTerms("async")
    groups = (GroupSettings(policy, "G", ("e*",)), GroupSettings(policy, keys=(keys_of_default,)))
    machine = Machine(Settings(groups), 1)
    error = reply(ask(machine, Offer(names("G/w"), whole=True, group="G"))).error
    advice = "keys in [group.G] does not take G/*, as the part of that name has: leave keys out there"
    assert (error.code, str(error)) == (code, f"{code}: {begins}; {advice}")


def test_the_first_whole_offer_closes_the_set():
    machine = Machine(Settings(GROUPS), 1)
    ask(machine, Offer(names("r.a", "r.b"), whole=True, group="rest"))
    assert reply(ask(machine, Offer(names("r.a"), ask=True))) == Offered((), ("r.a",))
    assert reply(ask(machine, Offer(names("r.c")))).error.code is Code.SCHEMA_CLOSED
    assert reply(ask(machine, Offer(names("emb", "r.c")))).error.code is Code.SCHEMA_CLOSED
    assert reply(ask(machine, Offer((spec("r.a", (5,)),)))).error.code is Code.SCHEMA_CONFLICT
    assert not machine.groups["emb"].specs


def test_a_file_that_does_not_fit():
    machine = Machine(Settings(GROUPS), 1)
    ask(machine, Offer(names("r.a", "r.b"), from_file=True))
    assert all(group.from_file for group in machine.groups.values())
    for offer in (
        Offer(names("emb"), whole=True, group="emb"),
        Offer(names("emb")),
        Offer(names("r.a"), whole=True, group="rest"),
        Offer(names("r.a", "r.b", "r.c"), whole=True, group="rest"),
        Offer((spec("r.a", (5,)), spec("r.b")), whole=True, group="rest"),
        Offer((TensorSpec("r.a", (3,), "float64", Kind.TRAINABLE),)),
    ):
        assert reply(ask(machine, offer)).error.code is Code.SCHEMA_CONFLICT
    assert reply(ask(machine, Offer(names("r.a")))) == Offered((), ("r.a",))
    assert machine.groups["rest"].from_file
    assert reply(ask(machine, Offer(names("r.b", "r.a"), whole=True, group="rest"))) == Offered((), ("r.b", "r.a"))
    assert (machine.groups["rest"].whole, machine.groups["rest"].from_file) == (True, False)


def test_after_the_first_update_the_files_names_are_the_groups():
    machine = Machine(Settings(), 1)
    ask(machine, Offer(names("module.w"), from_file=True))
    machine.groups["default"].schema_closed = True
    assert reply(ask(machine, Offer(names("w"), whole=True))).error.code is Code.SCHEMA_CONFLICT
    assert reply(ask(machine, Offer(names("module.w"), whole=True))) == Offered((), ("module.w",))


def test_an_adoption_that_fails_leaves_the_files_names():
    machine = Machine(Settings((GroupSettings(PolicyTerms("async")),)), 1)
    group = machine.groups["default"]
    ask(machine, Offer(names("module.w", "module.b"), from_file=True))
    group.published_is(1, 0.0)
    whole = Offer(names("w", "b"), ask=True, whole=True)
    ask(machine, whole)
    # A second one, decided on what the first was to make: both fail, for one after the other is not possible.
    ask(machine, Offer((TensorSpec("w", (3,), "float32", Kind.FLOAT_BUFFER), spec("b")), ask=True))
    for number in (2, 3):
        if number <= group.decided:
            told = reply(machine.step(Failed("default", number), 0.0))
            assert told.error.code is Code.INTERNAL
    assert list(group.specs) == ["module.w", "module.b"]
    assert (group.whole, group.from_file) == (False, True)
    number = group.decided + 1
    ask(machine, whole)
    assert reply(machine.step(Published("default", number), 0.0)) == Offered((), ("w", "b"))
    assert (list(group.specs), group.whole) == (["w", "b"], True)


def test_two_adoptions_at_once_come_out_in_their_order():
    machine = Machine(Settings((GroupSettings(PolicyTerms("async")),)), 1)
    group = machine.groups["default"]
    ask(machine, Offer(names("module.w", "module.b"), from_file=True))
    group.published_is(1, 0.0)
    ask(machine, Offer(names("w"), ask=True))
    ask(machine, Offer((spec("w"), TensorSpec("b", (3,), "float32", Kind.FLOAT_BUFFER)), ask=True, whole=True))
    machine.step(Published("default", 2), 0.0)
    assert group.specs["b"].kind is Kind.FLOAT_BUFFER
    machine.step(Published("default", 3), 0.0)
    assert (list(group.specs), group.specs["b"].kind, group.whole) == (["w", "b"], Kind.FLOAT_BUFFER, True)


def test_a_whole_offer_that_was_not_stored_closes_nothing():
    machine = Machine(Settings((GroupSettings(PolicyTerms("async")),)), 1)
    ask(machine, Offer(names("w", "b"), whole=True))
    assert reply(machine.step(Failed("default", 1), 0.0)).error.code is Code.INTERNAL
    assert not machine.groups["default"].whole
    ask(machine, Offer(names("w"), whole=True))
    machine.step(Published("default", 2), 0.0)
    assert list(machine.groups["default"].specs) == ["w"]


def test_nobody_pulls_or_pushes_under_names_that_are_given_up():
    machine = Machine(Settings((GroupSettings(PolicyTerms("async")),)), 1)
    group = machine.groups["default"]
    ask(machine, Offer(names("module.w"), from_file=True))
    group.published_is(1, 0.0)
    life = Life("w0", 1, 1)
    ask(machine, Join("w0", "s"))
    assert reply(ask(machine, Pull(life=life))).version.number == 1
    ask(machine, Push(life, 0, 1, UpdateKind.GRADIENT, 4, part=0, parts=2, keys=("module.w",)))
    effects = ask(machine, Offer(names("w"), ask=True, whole=True))
    assert [type(effect) for effect in effects] == [Drop, Adopt]
    push = Push(life, 0, 1, UpdateKind.GRADIENT, 4, keys=("module.w",))
    assert reply(ask(machine, push)).error.code is Code.NOT_GRANTED
    assert reply(ask(machine, Pull(life=life))).reason is Reason.NO_PARAMETERS
    group.published_is(2, 0.0)
    assert reply(ask(machine, Pull(life=life))).version.number == 2
