"""What a user's training loop sees: `leeway.connect` and its session, on a real connection."""

import threading

import numpy as np
import pytest
import torch
from aiohttp import web
from torch import nn

import leeway
from leeway.errors import ServerLost, WireError
from leeway.protocol import routes
from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition
from leeway.worker.session.states import Ending, Outcome


@pytest.fixture
def model():
    """The module that `server.specs` describes: one weight of (2, 3)."""
    return nn.Linear(3, 2, bias=False)


@pytest.fixture
def session(far_server):
    far_server.then(far_server.joined())
    with leeway.connect(far_server.url, "w0") as session:
        yield session
        if session.ending is None:
            far_server.then(left())


def left():
    return web.json_response({"rank": "w0"})


def backward(model):
    model(torch.ones(4, 3)).sum().backward()


def pushes(server):
    return [seen.frame for seen in server.seen if seen.line == "POST /v1/updates"]


def tensor_of(frame, name="weight"):
    return np.frombuffer(frame.tensor(name), np.float32).reshape(2, 3).tolist()


def test_the_three_lines(far_server, session, model):
    far_server.then(far_server.granted(value=1.0), far_server.pushpulled(0, 2, 2.0))
    session.attach(model)
    assert (model.weight == 1.0).all()
    assert (session.clock, session.version, session.finished) == (0, 1, False)
    backward(model)
    outcome = session.step(samples=4, metrics={"loss": torch.tensor(0.5)})
    assert outcome is session.outcome
    assert outcome.disposition is Disposition.APPLIED
    assert (model.weight == 2.0).all()
    assert model.weight.grad is None
    (push,) = pushes(far_server)
    assert tensor_of(push) == [[4.0] * 3] * 2
    message = push.message
    assert (message["kind"], message["samples"], message["version"]) == ("gradient", 4, 1)
    assert message["metrics"] == {"loss": 0.5}
    assert (session.rank, session.clock, session.version, session.lag) == ("w0", 1, 2, 0)
    assert (session.index, session.count, session.staleness) == (0, 1, 0)
    assert (session.policy, session.until) == ("ssp(3)", None)


def test_where_the_time_goes(far_server, session, model):
    far_server.then(far_server.granted(), far_server.pushpulled())
    session.attach(model)
    backward(model)
    session.step(samples=1)
    times = session.times
    assert min(times.compute_seconds, times.push_seconds, times.wait_seconds, times.pull_seconds) > 0
    assert times.clock == 0
    assert session.traffic.sent_bytes > 64
    assert session.traffic.received_bytes > 64


def test_each_push_tells_the_times_of_the_iteration_before(far_server, session, model):
    server = far_server
    server.then(server.granted(), server.pushpulled(), server.pushpulled(1, 3))
    session.attach(model)
    told = []
    for _ in range(2):
        backward(model)
        session.step(samples=1)
        told.append(session.times.to_fields())
    server.then(server.pushed(2, Disposition.SKIPPED), server.granted(3, 1))
    session.skip()
    first, second, third = pushes(server)
    assert "times" not in first.message
    assert [second.message["times"], third.message["times"]] == told
    assert [times["clock"] for times in told] == [0, 1]


def test_the_first_worker_offers_its_weights(far_server, model):
    server = far_server
    server.then(
        server.joined(specs=()),
        web.json_response({"stored": [], "kept": [], "wanted": ["weight"]}),
        web.json_response({"stored": ["weight"], "kept": [], "wanted": []}),
        server.granted(value=3.0),
        left(),
    )
    before = model.weight.tolist()
    with leeway.connect(server.url, "w0") as session:
        session.attach(model)
    assert tensor_of(server.seen[2].frame) == before
    assert (model.weight == 3.0).all()


@pytest.mark.parametrize(("update", "sent"), [("delta", 0.25), ("model", 0.75)])
def test_local_steps_push_pulled_minus_local_or_the_local_weights(far_server, session, model, update, sent):
    far_server.then(far_server.granted(value=1.0), far_server.pushpulled(0, 2, 2.0))
    session.attach(model)
    with torch.no_grad():
        model.weight.sub_(0.25)
    session.step(samples=8, update=update)
    (push,) = pushes(far_server)
    assert push.message["kind"] == update
    assert tensor_of(push) == [[sent] * 3] * 2
    assert (model.weight == 2.0).all()


def test_skip(far_server, session, model):
    far_server.then(far_server.granted(), far_server.pushed(0, Disposition.SKIPPED), far_server.granted(1, 1, 1.0))
    session.attach(model)
    backward(model)
    assert session.skip().disposition is Disposition.SKIPPED
    assert model.weight.grad is None
    assert session.staleness == 0


def test_the_run_is_complete(far_server, session, model):
    far_server.then(
        far_server.granted(),
        far_server.pushed_only(0, "refused", WireError(Code.FINISHED, "over").to_document()),
        left(),
    )
    session.attach(model)
    backward(model)
    session.step(samples=1)
    assert (session.finished, session.ending) == (True, Ending.FINISHED)
    backward(model)
    with pytest.raises(ValueError, match=r"nothing more to push: finished; loop while not session\.finished"):
        session.step(samples=1)


def test_a_run_that_was_complete_before(far_server, model):
    far_server.then(far_server.joined(clock=5, until=5), left())
    with leeway.connect(far_server.url, "w0") as session:
        session.attach(model)
        assert session.finished
        assert session.until == 5


def test_barrier(far_server, session):
    far_server.then(web.json_response({"name": "eval", "generation": 0}))
    session.barrier("eval", parties=2)


def test_mistakes_are_told(far_server, session, model):
    with pytest.raises(ValueError, match=r"call attach\(model\) first"):
        session.step(samples=1)
    far_server.then(far_server.granted())
    session.attach(model)
    with pytest.raises(ValueError, match="attached already"):
        session.attach(model)
    with pytest.raises(ValueError, match="samples is 0"):
        session.step(samples=0)
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        session.step(samples=1)
    with pytest.raises(ValueError, match="update is 'weights', it must be 'gradient', 'delta' or 'model'"):
        session.step(samples=1, update="weights")
    with pytest.raises(ValueError, match="loader is 5, it must give batches"):
        next(session.epochs(5))
    with pytest.raises(ValueError, match="the loader gave no batch"):
        next(session.epochs([]))


# What is interrupted.


def test_a_step_that_was_interrupted_is_completed_by_the_next(far_server, session, model):
    server = far_server
    server.then(server.granted(value=1.0), server.interrupt, server.pushpulled(0, 2, 2.0), server.unchanged(1, 2))
    session.attach(model)
    backward(model)
    with pytest.raises(KeyboardInterrupt):
        session.step(samples=1)
    # Gradients of the old parameters, which the server's next version is not.
    backward(model)
    outcome = session.step(samples=1)
    assert outcome.clock == 0
    assert (model.weight == 2.0).all()
    assert model.weight.grad is None
    first, second = pushes(server)
    assert bytes(first.body) == bytes(second.body)
    server.then(server.pushpulled(1, 3, 3.0))
    backward(model)
    assert session.step(samples=1).clock == 1


def test_a_skip_that_was_interrupted(far_server, session, model):
    server = far_server
    server.then(
        server.granted(value=1.0),
        server.interrupt,
        server.pushed(0, Disposition.SKIPPED),
        server.granted(1, 1, 1.0),
    )
    session.attach(model)
    with pytest.raises(KeyboardInterrupt):
        session.skip()
    assert session.skip() == Outcome(0, Disposition.SKIPPED, session.outcome.reason, 2, 0)
    assert session.clock == 1


# Connecting.


def test_the_server_and_the_rank_come_from_the_environment(far_server, monkeypatch):
    monkeypatch.setenv("PS_SERVER", far_server.url)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    far_server.then(far_server.joined(), far_server.refused("left"))
    with leeway.connect() as session:
        session.join()
        assert session.rank == "w3"


def test_without_a_server_it_says_what_to_set(monkeypatch):
    monkeypatch.delenv("PS_SERVER", raising=False)
    with pytest.raises(ValueError, match="set PS_SERVER=http://HOST:PORT"):
        leeway.connect()


def test_a_server_that_cannot_be_reached_leaves_no_thread():
    with pytest.raises(ServerLost):
        leeway.connect("http://127.0.0.1:1", "w0", patience_seconds=0.0)
    assert [thread for thread in threading.enumerate() if thread.name == "leeway"] == []


def test_another_model_on_the_server_is_refused(far_server, session):
    far_server.then(far_server.refused("schema-conflict", "weight float32[2,3] is known as weight float32[9]"))
    with pytest.raises(WireError, match="schema-conflict"):
        session.attach(nn.Linear(9, 2, bias=False))
    assert far_server.seen[-1].line == f"PUT {routes.PARAMS}"


# What is wrong before anything is sent.


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"samples": 4.5}, "samples is 4.5"),
        ({"samples": True}, "samples is True"),
        ({"samples": 2**60}, "samples is 1152921504606846976"),
        ({"samples": 4, "metrics": {"loss": torch.zeros(2)}}, r"metrics\['loss'\] is tensor"),
        ({"samples": 4, "metrics": {3: 1.0}}, "metrics has the name 3"),
        ({"samples": 4, "metrics": {"x" * 200: 1.0}}, "metrics has the name 'xxx"),
        ({"samples": 4, "metrics": {str(number): 1.0 for number in range(40)}}, "metrics has 40 names"),
        ({"samples": 4, "update": "skip"}, "update is 'skip'"),
    ],
)
def test_a_wrong_argument_is_named_and_the_same_step_can_be_called_again(far_server, session, model, wrong, words):
    far_server.then(far_server.granted(), far_server.pushpulled())
    session.attach(model)
    backward(model)
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            session.step(**wrong)
    assert not session.client.conversation.in_hand
    outcome = session.step(samples=np.int64(4), metrics={"loss": torch.tensor(0.5), "lr": np.float32(0.25)})
    assert outcome.disposition is Disposition.APPLIED
    (push,) = pushes(far_server)
    assert (push.message["samples"], push.message["metrics"]) == (4, {"loss": 0.5, "lr": 0.25})


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError, OverflowError])
@pytest.mark.parametrize(
    "where",
    [
        "leeway.worker.torch_bridge.ModelBridge.gradients",
        "leeway.worker.blocking.BlockingGroup.pushpull",
        "leeway.worker.group_client.GroupClient._push",
        "leeway.worker.session.course.Course.computed",
        "leeway.worker.session.course.Push",
        "leeway.worker.group_client.encode",
        "leeway.transport.http.exchange.write_request",
    ],
)
def test_whatever_happens_before_something_is_sent_the_session_goes_on(
    far_server, session, model, monkeypatch, where, error
):
    def fail(*args, **named):
        raise error("before anything was sent")

    far_server.then(far_server.granted(), far_server.pushpulled())
    session.attach(model)
    backward(model)
    with monkeypatch.context() as patched:
        patched.setattr(where, fail)
        with pytest.raises(error):
            session.step(samples=4)
    if session.client.conversation.in_hand:
        # It is complete, and only had not gone out yet: the next call sees it to its end.
        far_server.then(far_server.unchanged(1, 2))
    assert session.step(samples=4).disposition is Disposition.APPLIED
    (push,) = pushes(far_server)
    assert tensor_of(push) == [[4.0] * 3] * 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("a/b",), "barrier 'a/b' must be 1 to 64"),
        (("x", 0), "parties is 0"),
        (("x", True), "parties is True"),
        ((None,), "barrier None"),
    ],
)
def test_a_wrong_barrier_is_not_sent(far_server, session, wrong, words):
    with pytest.raises(ValueError, match=words):
        session.barrier(*wrong)
    far_server.then(web.json_response({"name": "x", "generation": 0}))
    session.barrier("x", parties=np.int64(2))
    assert far_server.seen[-1].json["parties"] == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rank": "a b"}, "rank 'a b' must be"),
        ({"rank": 3}, "rank is 3, it must be text"),
        ({"group": "a/b"}, "group 'a/b' must be"),
        ({"wait_seconds": "20"}, "wait_seconds is '20'"),
        ({"patience_seconds": float("nan")}, "patience_seconds is nan"),
    ],
)
def test_a_wrong_argument_of_connect_leaves_no_thread(wrong, words):
    with pytest.raises(ValueError, match=words):
        leeway.connect("http://127.0.0.1:1", **{"rank": "w0"} | wrong)
    assert [thread for thread in threading.enumerate() if thread.name == "leeway"] == []


def test_two_threads_in_one_session_are_told(far_server, session, model):
    far_server.then(far_server.granted())
    session.attach(model)
    errors = []

    def step():
        try:
            session.step(samples=1)
        except RuntimeError as error:
            errors.append(str(error))

    def collect(first):
        other = threading.Thread(target=step)
        other.start()
        other.join()
        raise LookupError

    session.parts["default"].bridge.gradients = collect
    with pytest.raises(LookupError):
        session.step(samples=1)
    assert errors == ["another thread uses this session; a session is for one thread: connect once in each"]


@pytest.mark.parametrize("value", [0, 5, [], {}, b"http://127.0.0.1:1", torch.tensor([1, 2])], ids=repr)
@pytest.mark.parametrize("name", ["url", "rank", "group", "metrics_host"])
def test_what_is_no_text_is_told_whether_it_is_true_or_not(monkeypatch, name, value):
    monkeypatch.setenv("PS_RANK", "w0")
    with pytest.raises(ValueError, match=f"^{name} is .*, it must be text such as"):
        leeway.connect(**{"url": "http://127.0.0.1:1", name: value})


def test_empty_text_is_an_argument_that_is_not_given(monkeypatch, far_server):
    monkeypatch.setenv("PS_SERVER", far_server.url)
    monkeypatch.setenv("PS_RANK", "w7")
    far_server.then(far_server.joined(), far_server.refused("left"))
    with leeway.connect("", "", group="", metrics_host="") as session:
        session.join()
        assert (session.rank, list(session.parts)) == ("w7", ["default"])
