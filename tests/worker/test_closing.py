"""A session that is closed: while a call of it waits, from wherever; once more, or again after an interrupt."""

import asyncio
import copy
import gc
import os
import pickle
import signal
import threading

import pytest
import torch
from aiohttp import web
from torch import nn

import leeway
from leeway.errors import LeewayError, SessionClosed
from leeway.worker import blocking
from leeway.worker.background import Background
from leeway.worker.blocking import BlockingClient


def joined(*given, **named):
    """A session whose worker has joined."""
    session = leeway.connect(*given, **named)
    try:
        session.join()
    except BaseException:
        session.close()
        raise
    return session


def left():
    return web.json_response({"rank": "w0"})


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "leeway"]


def parked(then):
    """A request that is not answered; `then` is called while it is parked."""

    async def park(request):
        then()
        while not request.transport.is_closing():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)
        return web.Response()

    return park


def by_handler(session):
    signal.signal(signal.SIGTERM, lambda *_: session.close())
    return lambda: os.kill(os.getpid(), signal.SIGTERM)


def by_thread(session):
    return lambda: threading.Thread(target=session.close).start()


@pytest.fixture
def _handlers():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


CALLS = {
    "step": lambda session: session.step(samples=1),
    "skip": lambda session: session.skip(),
    "pull": lambda session: session.pull(),
    "barrier": lambda session: session.barrier("eval"),
}


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("close_by", [by_handler, by_thread])
def test_a_call_that_waits_is_told_and_the_worker_leaves_in_good_order(far_server, close_by, call):
    far_server.then(far_server.joined(), far_server.granted())
    model = nn.Linear(3, 2, bias=False)
    with joined(far_server.url, "w0") as session:
        session.attach(model)
        model.weight.grad = torch.ones(2, 3)
        far_server.then(parked(close_by(session)), left())
        with pytest.raises(SessionClosed, match="this session is closed, while this call waited; an update that was"):
            CALLS[call](session)
        for again in CALLS.values():
            with pytest.raises(SessionClosed, match=r"^this session is closed$"):
                again(session)
        assert session.finished
    assert threads() == []
    assert far_server.seen[-1].line == "DELETE /v1/workers/w0"


def test_attach_and_connect_that_wait_are_told(far_server):
    far_server.then(far_server.joined())
    session = joined(far_server.url, "w0")
    far_server.then(parked(by_thread(session)), left())
    with pytest.raises(SessionClosed, match="while this call waited"):
        session.attach(nn.Linear(3, 2, bias=False))
    with pytest.raises(SessionClosed, match=r"^this session is closed$"):
        session.attach(nn.Linear(3, 2, bias=False))
    client = BlockingClient(far_server.url, "w1")
    far_server.then(parked(by_thread(client)))
    with pytest.raises(SessionClosed, match="this client is closed, while"):
        client.join()
    session.close()
    client.close()
    assert threads() == []


def test_a_handler_that_closes_during_the_close_of_a_with_block(far_server):
    """The goodbye is parked for a moment: a signal comes and closes once more, while another thread does so too."""
    closed = threading.Event()

    async def goodbye(request):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Thread(target=lambda: (session.close(), closed.set())).start()
        await asyncio.sleep(0.05)
        return left()

    before = signal.signal(signal.SIGTERM, lambda *_: session.close())
    try:
        far_server.then(far_server.joined(), goodbye)
        with joined(far_server.url, "w0") as session:
            pass
        assert closed.wait(10)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert threads() == []
    assert [seen.line for seen in far_server.seen].count("DELETE /v1/workers/w0") == 1


@pytest.mark.parametrize("where", ["end", "join", "_tell"])
def test_a_close_that_was_interrupted_is_completed_by_the_next(far_server, monkeypatch, where):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    far_server.then(far_server.joined(), left())
    session = joined(far_server.url, "w0")
    with monkeypatch.context() as patched:
        patched.setattr(Background, where, interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.close()
    session.close()
    assert threads() == []


def test_a_session_that_nobody_refers_to_but_a_call_that_waits(far_server):
    far_server.then(far_server.joined())
    ended = []

    def use():
        try:
            joined(far_server.url, "w0").barrier("eval")
        except SessionClosed as error:
            ended.append(error)

    far_server.then(parked(gc.collect), left())
    user = threading.Thread(target=use)
    user.start()
    while len(far_server.seen) < 2:
        user.join(0.001)
    blocking._close_all()  # as at the interpreter's exit
    user.join(10)
    assert [type(error) for error in ended] == [SessionClosed]
    assert threads() == []


def test_it_is_in_the_tree_of_errors():
    assert issubclass(SessionClosed, LeewayError)
    assert issubclass(SessionClosed, ValueError)
    assert leeway.SessionClosed is SessionClosed


# The loop in its thread.


async def nothing():
    pass


async def forever():
    await asyncio.Event().wait()


def test_whoever_waits_is_told_however_the_loop_ends():
    background = Background(nothing)
    background.start()
    calls = [background.call(forever) for _ in range(3)]
    assert all([background.hand_over(call) for call in calls])
    background.loop.call_soon_threadsafe(background.loop.stop)
    for call in calls:
        assert call.wait(10)
        with pytest.raises(SessionClosed, match="thread of this client has ended"):
            call.result()
    background.join(10)
    assert not background.hand_over(background.call(nothing))
    background.end("again")
    assert threads() == []


def test_one_that_was_never_started_is_let_go_of():
    background = Background(nothing)
    background.end("nobody wants it")
    assert background.loop.is_closed()
    background.join(10)


def test_what_is_handed_over_when_it_ends_is_told():
    started, go_on = threading.Event(), threading.Event()

    async def goodbye():
        started.set()
        while not go_on.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.001)

    background = Background(goodbye)
    background.start()
    background.end("it is over")
    assert started.wait(10)
    call = background.call(nothing)
    background.hand_over(call)
    assert call.wait(10)
    with pytest.raises(SessionClosed, match="it is over"):
        call.result()
    go_on.set()
    background.join(10)
    assert threads() == []


# At a prompt.


def test_a_session_says_what_it_is(far_server):
    far_server.then(far_server.joined(), far_server.granted(), left())
    session = joined(far_server.url, "w0")
    assert repr(session) == f"<leeway session w0 at {far_server.url}, iteration 0: pulling>"
    session.attach(nn.Linear(3, 2, bias=False))
    assert repr(session) == f"<leeway session w0 at {far_server.url}, iteration 0: computing>"
    session.close()
    assert repr(session) == f"<leeway session w0 at {far_server.url}, iteration 0: closed>"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps, lambda session: copy.deepcopy([session])])
def test_a_session_is_not_copied(far_server, copied):
    far_server.then(far_server.joined(), left())
    with (
        joined(far_server.url, "w0") as session,
        pytest.raises(TypeError, match=r"^a session is not copied or pickled: it has a thread and connections"),
    ):
        copied(session)
