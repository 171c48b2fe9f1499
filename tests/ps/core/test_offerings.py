"""Keys that the stages of a replica offer, each its own: declared by a question, readable when all are there."""

from __future__ import annotations

import json

import pytest

from leeway.protocol.codes import Code
from leeway.protocol.membership import Heartbeat
from leeway.protocol.offers import Offer, Offered
from leeway.protocol.pulls import Granted, NotYet, Pull
from leeway.protocol.pushes import Disposition
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.ps.core.effects import Adopt, Drop
from leeway.ps.core.events import Failed
from leeway.ps.core.saved import restore, save


def specs(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, (3,), "float32", Kind.TRAINABLE) for name in names)


def asks(*names: str) -> Offer:
    return Offer(specs(*names), ask=True, whole=True, spread=True)


def is_readable(server) -> bool:
    return isinstance(server.ask(Pull()), Granted)


@pytest.fixture
def server(serve):
    """Stage 0 has asked, and offered its own tensor of three."""
    server = serve()
    assert server.ask(asks("w", "b", "h")) == Offered((), (), wanted=("w", "b", "h"))
    assert server.ask(Offer(specs("w"))) == Offered(("w",), ())
    return server


def test_nothing_is_read_before_all_is_there(server):
    not_yet = server.ask(Pull())
    assert isinstance(not_yet, NotYet)
    detail = "2 of the 3 tensors of group default are still to be offered by stages"
    assert (not_yet.reason, not_yet.detail) == (Reason.NO_PARAMETERS, detail)
    waits = server.send(Pull(wait_seconds=9.0))
    assert server.ask(asks("w", "b", "h")) == Offered((), ("w",), wanted=("b", "h"))
    server.ask(Offer(specs("b")))
    assert not server.machine.groups["default"].whole
    server.ask(Offer(specs("h")))
    assert server.replies[waits].version.number == 3
    assert server.machine.groups["default"].whole
    assert server.ask(asks("w", "b", "h")) == Offered((), ("w", "b", "h"))


def test_not_even_while_the_last_of_it_is_stored(server):
    server.holding = True
    for name in ("b", "h"):
        server.send(Offer(specs(name)))
    server.step(server.coming.pop(0))
    assert not is_readable(server)
    server.step(server.coming.pop(0))
    assert is_readable(server)


def test_the_question_of_another_model_is_refused(server):
    refused = server.ask(asks("w", "c"))
    assert isinstance(refused, Refused)
    assert refused.error.code is Code.SCHEMA_CONFLICT
    assert "holds another model" in refused.error.detail
    new = server.ask(Offer(specs("c")))
    assert new.error.code is Code.SCHEMA_CLOSED
    other = TensorSpec("b", (4,), "float32", Kind.TRAINABLE)
    assert server.ask(Offer((other,))).error.code is Code.SCHEMA_CONFLICT


def test_an_unsplit_worker_offers_what_is_missing(server):
    assert server.ask(Offer(specs("w", "b", "h"), ask=True, whole=True)) == Offered((), ("w",), wanted=("b", "h"))
    assert server.ask(Offer(specs("w", "b", "h"), whole=True)) == Offered(("b", "h"), ("w",))
    assert is_readable(server)


def test_what_could_not_be_stored_is_offered_again(server):
    server.ask(Offer(specs("b")))
    server.holding = True
    request = server.send(Offer(specs("h")))
    server.step(Failed("default", server.coming.pop(0).number))
    server.holding = False
    assert server.replies[request].error.code is Code.INTERNAL
    assert (is_readable(server), server.machine.groups["default"].whole) == (False, False)
    assert server.ask(asks("w", "b", "h")) == Offered((), ("w", "b"), wanted=("h",))
    server.ask(Offer(specs("h")))
    assert is_readable(server)


def test_what_could_not_be_stored_keeps_what_came_behind_it_from_being_read(server):
    server.holding = True
    for name in ("b", "h"):
        server.send(Offer(specs(name)))
    server.step(Failed("default", server.coming.pop(0).number))
    server.publish()
    server.holding = False
    assert not is_readable(server)
    server.ask(Offer(specs("b")))
    assert is_readable(server)


def test_the_values_of_a_stage_alone_are_not_stored_where_nobody_has_declared_the_others(serve):
    """The server has lost that in a crash since the question."""
    server = serve()
    assert server.ask(Offer(specs("w"), spread=True)) == Offered((), (), wanted=("w",))
    assert Drop((server.requests,)) in server.effects
    assert not server.machine.groups["default"].specs
    server.ask(asks("w", "b"))
    assert server.ask(Offer(specs("w"), spread=True)) == Offered(("w",), ())


def test_what_is_declared_is_saved(server):
    state, _ = save(server.machine)
    server.machine = restore(server.machine.settings, json.loads(json.dumps(state)), [], 1, 0.0)
    assert not is_readable(server)
    for name in ("b", "h"):
        server.ask(Offer(specs(name)))
    state, _ = save(server.machine)
    server.machine = restore(server.machine.settings, json.loads(json.dumps(state)), [], 1, 0.0)
    assert is_readable(server)


# A file of initial values.


@pytest.fixture
def of_file(serve):
    """A replica computes from the tensors of a file, whose names nobody has compared with a model's yet."""
    server = serve()
    server.ask(Offer(specs("module.w", "module.b"), from_file=True))
    lives = server.replica()
    server.pull(lives[0])
    return server, lives


def test_a_replica_that_computes_from_a_file_drops_its_iteration_when_the_tensors_get_their_names(of_file):
    server, lives = of_file
    w0 = server.join("w0")
    server.pull(w0)
    server.ask(Offer(specs("w", "b"), ask=True, whole=True))
    assert any(isinstance(effect, Adopt) for effect in server.effects)
    assert [server.ask(Heartbeat(life)).error.code for life in lives] == [Code.STAGE_LOST] * 2
    assert server.machine.membership.of_rank("w0")
    lives = server.replica()
    assert [server.pull(life).version.number for life in lives] == [2, 2]


def test_one_that_does_not_compute_goes_on(serve):
    server = serve()
    server.ask(Offer(specs("module.w"), from_file=True))
    lives = server.replica()
    server.ask(Offer(specs("w"), ask=True, whole=True))
    assert [server.pull(life).version.number for life in lives] == [2, 2]


def test_an_update_that_is_being_applied_then_is_there_all_the_same(of_file):
    server, lives = of_file
    server.holding = True
    server.push(lives[0])
    server.push(lives[1])
    requests = (server.requests - 1, server.requests)
    server.send(Offer(specs("w", "b"), ask=True, whole=True))
    server.publish()
    assert [server.replies[request].disposition for request in requests] == [Disposition.APPLIED] * 2
    assert server.machine.membership.committed("r0") == {"default": 1}
