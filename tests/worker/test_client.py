"""The client on a real connection, against written-down replies."""

import asyncio

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from leeway.errors import ServerLost, WireError
from leeway.protocol.codes import Code
from leeway.protocol.pushes import Disposition, LastPush, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.transport.channel import Tensors
from leeway.worker.client import Client
from leeway.worker.session import backoff
from leeway.worker.session.states import Ending, Outcome, State

GRADIENT = UpdateKind.GRADIENT


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Back-off is tested with the session; here it only costs time."""
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.001)


@pytest.fixture
async def client(server):
    server.then(server.joined())
    client = Client(server.url, "w0", silence_seconds=5.0)
    await client.join()
    yield client
    if client.conversation.ending is None:
        server.then(web.json_response({"rank": "w0"}))
    await client.close()


# Each call on the wire.


async def test_join_and_leave(server):
    server.then(server.joined(clock=3), web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        assert (client.conversation.clock, client.conversation.life.incarnation) == (3, 1)
    join, leave = server.seen
    assert (join.line, leave.line) == ("POST /v1/workers", "DELETE /v1/workers/w0")
    assert join.json["rank"] == "w0"
    assert join.json["groups"] == ["default"]
    assert leave.query == {"epoch": "7", "incarnation": "1"}
    assert client.conversation.ending is Ending.LEFT
    await client.close()


async def test_pull(server, client):
    server.then(server.not_yet(), server.granted(value=1.5))
    pulled = await client.pull()
    assert server.value_of(pulled.frame) == 1.5
    assert pulled.grant.version.number == 1
    _, first, second = server.seen
    assert first.line == "GET /v1/params"
    assert first.query == second.query == {
        "group": "default", "rank": "w0", "epoch": "7", "incarnation": "1", "clock": "0",
    }  # fmt: skip
    assert first.headers["Prefer"] == "wait=20"
    assert "application/vnd.leeway.frame" in first.headers["Accept"]
    assert client.waiting is None
    assert client.sent_again == 0


async def test_why_a_pull_waits_can_be_seen(server, client):
    async def look(request):
        looked.append(client.waiting)
        return server.granted()

    looked = []
    server.then(server.not_yet(), look)
    await client.pull()
    assert (looked[0].reason, looked[0].waiting_for) == (Reason.LAG, ("w1",))


async def test_push_then_pull(server, client):
    server.then(server.granted(), server.pushed(0), server.granted(1, 2, 3.0))
    await client.pull()
    outcome = await client.push(GRADIENT, 32, server.tensors(0.25), {"loss": 0.5})
    assert outcome == Outcome(0, Disposition.APPLIED, Reason.ON_ARRIVAL, 2, 0)
    push = server.seen[-1]
    assert (push.line, push.query) == ("POST /v1/updates", {})
    assert "Transfer-Encoding" not in push.headers
    assert int(push.headers["Content-Length"]) == len(push.body)
    assert server.value_of(push.frame) == 0.25
    assert push.frame.message["metrics"] == {"loss": 0.5}
    pulled = await client.pull()
    assert server.value_of(pulled.frame) == 3.0
    assert server.seen[-1].query["since"] == "7.1"


async def test_pushpull_in_one_request_keeps_the_version_before_readable(server, client):
    server.then(server.granted(value=1.0), server.pushpulled(0, 2, 2.0))
    before = await client.pull()
    outcome, after = await client.pushpull(GRADIENT, 32, server.tensors())
    assert outcome.disposition is Disposition.APPLIED
    assert (server.value_of(before.frame), server.value_of(after.frame)) == (1.0, 2.0)
    assert server.seen[-1].query == {"pull": "1", "since": "7.1"}
    assert server.seen[-1].headers["Prefer"] == "wait=20"


async def test_two_buffers_take_turns(server, client):
    made = []

    def allocate(nbytes):
        made.append(memoryview(bytearray(nbytes)))
        return made[-1]

    client.receive_into(allocate)
    server.then(server.granted(), *(server.pushpulled(clock, clock + 2) for clock in range(5)))
    await client.pull()
    for _ in range(5):
        await client.pushpull(GRADIENT, 1, server.tensors())
    assert len(made) == 2


@pytest.mark.parametrize(
    ("pulled", "pull"),
    [
        ("not-yet", {"reason": "lag", "detail": "leads w1 by 4 > 3", "waiting_for": ["w1"]}),
        ("refused", WireError(Code.STOPPING, "later").to_document()),
    ],
)
async def test_a_pushpull_without_parameters_goes_on_as_a_pull(server, client, pulled, pull):
    server.then(server.granted(), server.pushed_only(0, pulled, pull), server.granted(1, 2, 4.0))
    await client.pull()
    outcome, after = await client.pushpull(GRADIENT, 32, server.tensors())
    assert outcome.disposition is Disposition.APPLIED
    assert server.value_of(after.frame) == 4.0


async def test_unchanged_parameters_are_those_in_hand(server, client):
    server.then(server.granted(value=1.0), server.unchanged())
    await client.pull()
    again = await client.pull()
    assert again.grant.unchanged
    assert server.value_of(again.frame) == 1.0


async def test_skip(server, client):
    server.then(server.granted(), server.pushed(0, Disposition.SKIPPED), server.granted(1))
    await client.pull()
    outcome, pulled = await client.skip()
    assert outcome.disposition is Disposition.SKIPPED
    assert pulled.grant.clock == 1
    message = server.seen[2].frame.message
    assert (message["kind"], message["samples"]) == ("skip", 0)


async def test_offer_sends_what_is_wanted(server, client):
    client.conversation._offering.known = ()
    server.then(
        web.json_response({"stored": [], "kept": [], "wanted": ["weight"]}),
        web.json_response({"stored": ["weight"], "kept": [], "wanted": []}),
    )
    await client.offer(server.specs, lambda layout: server.tensors(9.0).buffers)
    _, ask, offer = server.seen
    assert (ask.line, ask.query) == ("PUT /v1/params", {"ask": "1"})
    assert ask.json == {"specs": [["weight", "float32", "trainable", [2, 3]]], "group": "default"}
    assert offer.frame.message == {"group": "default"}
    assert (offer.line, offer.query, server.value_of(offer.frame)) == ("PUT /v1/params", {}, 9.0)


async def test_barrier(server, client):
    def passed(generation):
        return web.json_response({"name": "eval", "generation": generation})

    server.then(server.not_yet(Reason.BARRIER), server.break_off, server.refused("busy"), passed(0), passed(1))
    await client.barrier("eval", parties=2)
    await client.barrier("eval")
    lines = [seen.line for seen in server.seen[1:]]
    assert lines == ["POST /v1/barriers/eval"] * 5
    assert [seen.json["generation"] for seen in server.seen[1:]] == [0, 0, 0, 0, 1]
    assert server.seen[1].json["parties"] == 2


async def test_a_barrier_of_a_run_that_is_complete_cannot_be_passed(server, client):
    server.then(server.refused("finished", "the run has lasted for 3 s"), web.json_response({"rank": "w0"}))
    assert await client.pull() is None
    words = r"^barrier 'eval' cannot be passed: this worker's run has ended \(the run has lasted for 3 s\)$"
    with pytest.raises(ValueError, match=words):
        await client.barrier("eval")
    assert len(server.seen) == 3


async def test_a_barrier_of_a_worker_that_ends_meanwhile_is_not_passed(server, client):
    server.then(server.refused("left", last={}))
    with pytest.raises(ValueError, match=r"cannot be passed: this worker's run has ended \(.+\)$"):
        await client.barrier("eval")


async def test_a_barrier_of_a_worker_that_is_fenced_says_so(server, client):
    server.then(server.refused("fenced", "another process has the rank", last={}))
    for _ in range(2):
        with pytest.raises(WireError, match="fenced: another process has the rank"):
            await client.barrier("eval")


async def test_a_barrier_begins_a_life(server):
    server.then(
        server.joined(), web.json_response({"name": "eval", "generation": 0}), web.json_response({"rank": "w0"})
    )
    client = Client(server.url, "w0")
    await client.barrier("eval")
    await client.close()


async def test_why_a_worker_waits_at_a_barrier_can_be_seen(server, client):
    async def look(request):
        looked.append(client.waiting)
        return web.json_response({"name": "eval", "generation": 0})

    looked = []
    server.then(server.not_yet(Reason.BARRIER), look)
    await client.barrier("eval")
    assert (looked[0].reason, client.waiting) == (Reason.BARRIER, None)


async def test_a_barrier_after_eviction_is_one_of_the_new_life(server, client):
    server.then(
        server.granted(),
        server.refused("evicted", last={}),
        server.joined(incarnation=2, clock=4),
        web.json_response({"name": "eval", "generation": 0}),
        server.granted(4, 9),
    )
    await client.pull()
    await client.barrier("eval")
    assert server.seen[-1].json["incarnation"] == 2
    outcome, pulled = await client.pushpull(GRADIENT, 1, server.tensors())
    assert outcome == Outcome(4, None, Code.EVICTED)
    assert pulled.grant.clock == 4


async def test_status(server, client):
    server.then(web.json_response({"waiting": ["w0"]}), server.refused("not-found"))
    assert await client.status() == {"waiting": ["w0"]}
    with pytest.raises(WireError, match="not-found"):
        await client.status()


# Trouble.


async def test_a_resent_push_is_byte_identical(server, client):
    server.then(
        server.granted(), server.break_off, server.refused("busy", headers={"Retry-After": "0"}), server.pushpulled()
    )
    await client.pull()
    outcome, _ = await client.pushpull(GRADIENT, 32, server.tensors(), {"loss": 0.5})
    assert outcome.disposition is Disposition.APPLIED
    first, second, third = server.seen[-3:]
    assert first.body == second.body == third.body
    assert first.query == third.query


@pytest.mark.parametrize("length", [0, 10, 40, -1])
async def test_a_reply_that_breaks_off_is_asked_for_again(server, client, length):
    server.then(server.granted(value=1.0), server.cut(server.granted(1, 2, 6.0), length), server.granted(1, 2, 5.0))
    before = await client.pull()
    after = await client.pull()
    assert (server.value_of(before.frame), server.value_of(after.frame)) == (1.0, 5.0)


async def test_a_push_whose_reply_breaks_off_is_asked_for_again(server, client):
    server.then(server.granted(), server.cut(server.pushpulled(), 60), server.pushpulled(0, 2, 2.0))
    await client.pull()
    outcome, pulled = await client.pushpull(GRADIENT, 1, server.tensors())
    assert (outcome.clock, server.value_of(pulled.frame)) == (0, 2.0)
    assert server.seen[-1].body == server.seen[-2].body


async def test_503_with_retry_after_waits_so_long(server, client, monkeypatch):
    slept = []
    sleep = asyncio.sleep

    async def note(seconds):
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr("leeway.worker.client.asyncio.sleep", note)
    server.then(server.refused("stopping", headers={"Retry-After": "7"}), server.granted())
    await client.pull()
    assert [seconds for seconds in slept if 7.0 <= seconds < 8.0]
    assert client.sent_again == 1


async def test_patience_has_an_end(server, client):
    client._link.patience.seconds = 0.0
    server.then(*[server.break_off] * 10)
    with pytest.raises(ServerLost, match=r"has been away for more than 0 s: no connection to http://127"):
        await client.pull()
    # It can be asked again, for as long.
    client._link.patience.seconds = 60.0
    server.script[:] = [server.granted()]
    assert await client.pull()


async def test_a_server_that_is_silent_in_the_middle_of_a_reply_is_lost(server, client):
    async def stall(request):
        stream = web.StreamResponse(headers={"Content-Type": "application/vnd.leeway.frame"})
        stream.content_length = 1000
        await stream.prepare(request)
        await stream.write(b"LWAY")
        await released.wait()
        return stream

    released = asyncio.Event()
    client.conversation.wait_seconds = 0.01
    client._link.connected()._silence_seconds = 0.05
    server.then(stall, server.granted())
    assert await client.pull()
    assert client.sent_again == 1
    released.set()


async def test_a_server_that_does_not_read_a_push_is_lost(server, client):
    async def stall(request):
        await released.wait()
        request.transport.abort()
        return web.Response()

    async def take(request):
        # A busy machine is silent for longer than a test wants to wait.
        client._link.connected()._silence_seconds = 60.0
        await request.read()
        return server.pushed(0)

    stall.unread = take.unread = True
    released = asyncio.Event()
    client._link.connected()._silence_seconds = 0.2
    server.then(server.granted(), stall, take)
    await client.pull()
    # More than the kernel's buffers between the two take.
    layout = Layout.of([TensorSpec("big", (2**26,), "uint8", Kind.INTEGER_BUFFER)])
    outcome = await client.push(GRADIENT, 1, Tensors(layout, [memoryview(bytearray(2**26))]))
    assert outcome.disposition is Disposition.APPLIED
    released.set()


async def test_an_address_without_a_leeway_server_is_told(server):
    server.then(web.Response(status=404, text="not here"), web.Response(status=301, headers={"Location": "/x"}))
    for words in ("answered HTTP 404; is that a Leeway server", "answered HTTP 301, it points to /x"):
        client = Client(server.url, "w0")
        with pytest.raises(WireError, match=words):
            await client.join()
        await client.close()


async def test_no_server_at_all():
    client = Client("http://127.0.0.1:1", "w0", patience_seconds=0.0)
    with pytest.raises(ServerLost, match="no connection to http://127"):
        await client.join()
    await client.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8080", "has no scheme; write http://localhost:8080"),
        ("ftp://host", "scheme 'ftp'; it must be http or https"),
        ("http://", "has no host"),
        ("http://host:x", "is no URL"),
        ("http://host:8080/?a=1", "must be scheme, host, port and path alone"),
        ("http://me:secret@host", "must be scheme, host, port and path alone"),
    ],
)
def test_a_wrong_address_says_what_to_write(url, words):
    with pytest.raises(ValueError, match=words):
        Client(url, "w0")


def test_wrong_settings_are_told():
    with pytest.raises(ValueError, match="rank 'w 0' must be"):
        Client("http://host", "w 0")
    with pytest.raises(ValueError, match="wait_seconds is 0"):
        Client("http://host", "w0", wait_seconds=0)


# Lives.


async def test_a_restarted_server_with_a_new_epoch(server, client):
    server.then(
        server.granted(),
        server.refused("old-epoch", epoch=8),
        server.joined(epoch=8, clock=5),
        server.granted(5, 1, 7.0, epoch=8),
    )
    await client.pull()
    outcome, pulled = await client.pushpull(GRADIENT, 1, server.tensors())
    assert outcome == Outcome(0, None, Code.OLD_EPOCH)
    assert (pulled.grant.clock, server.value_of(pulled.frame)) == (5, 7.0)


async def test_a_lost_reply_is_resolved_by_the_join(server, client):
    server.then(
        server.granted(),
        server.break_off,
        server.refused("not-joined"),
        server.joined(resumed=True, clock=1, last=LastPush(0, Disposition.HELD)),
        server.granted(1),
    )
    await client.pull()
    outcome, pulled = await client.pushpull(GRADIENT, 1, server.tensors())
    assert outcome == Outcome(0, Disposition.HELD, Reason.REPEATED)
    assert pulled.grant.clock == 1


async def test_non_finite_becomes_a_skip_without_tensors(server, client):
    server.then(
        server.granted(), server.refused("non-finite"), server.pushed(0, Disposition.SKIPPED), server.granted(1)
    )
    await client.pull()
    outcome, _ = await client.pushpull(GRADIENT, 1, server.tensors())
    assert outcome == Outcome(0, Disposition.SKIPPED, Code.NON_FINITE, 2, 0)
    assert server.seen[-2].frame.message["kind"] == "skip"
    assert server.seen[-2].frame.places == ()


async def test_updates_that_keep_being_refused_are_told_with_the_tensor_ever_more_rarely(server, client):
    server.then(server.granted())
    await client.pull()
    with capture_logs() as logs:
        for clock in range(12):
            server.then(
                server.refused("non-finite", tensor="fc.weight"),
                server.pushpulled(clock, clock + 2) if clock % 2 else server.pushed(clock, Disposition.SKIPPED),
            )
            if clock % 2 == 0:
                server.then(server.granted(clock + 1, clock + 2))
            await client.pushpull(GRADIENT, 1, server.tensors())
    told = [line for line in logs if line["log_level"] == "warning"]
    assert [(line["tensor"], line["in_a_row"], line["iteration"]) for line in told] == [
        ("fc.weight", 1, 0),
        ("fc.weight", 10, 9),
    ]


async def test_what_is_for_the_user_is_raised_and_another_update_can_be_pushed(server, client):
    server.then(server.granted(), server.refused("wrong-tensor"), server.pushed(0))
    await client.pull()
    with pytest.raises(WireError, match="wrong-tensor"):
        await client.push(GRADIENT, 1, server.tensors())
    assert (await client.push(GRADIENT, 1, server.tensors())).disposition is Disposition.APPLIED


async def test_finished(server, client):
    server.then(server.granted(), server.pushed_only(0, "refused", WireError(Code.FINISHED, "over").to_document()))
    server.then(web.json_response({"rank": "w0"}))
    await client.pull()
    outcome, pulled = await client.pushpull(GRADIENT, 1, server.tensors())
    assert outcome.disposition is Disposition.APPLIED
    assert pulled is None
    assert await client.pull() is None
    assert (client.conversation.ending, client.conversation.state) == (Ending.FINISHED, State.ENDED)


async def test_a_fenced_process_is_told_with_every_call(server, client):
    server.then(server.refused("fenced", "another process has the rank"))
    for _ in range(2):
        with pytest.raises(WireError, match="fenced: another process has the rank"):
            await client.pull()


# Heartbeats.


async def test_heartbeats_go_on_while_a_step_computes(server):
    server.lease_seconds = 0.06
    server.then(server.joined(), server.granted(), web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        await client.pull()
        for _ in range(3):
            server.beaten.clear()
            await server.beaten.wait()
    assert server.heartbeats >= 3


async def test_heartbeats_go_on_while_a_pull_is_parked_and_have_a_connection_of_their_own(server):
    async def park(request):
        peers.add(request.transport.get_extra_info("peername"))
        server.beaten.clear()
        await server.beaten.wait()
        return server.granted()

    def beaten(request):
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({})

    peers = set()
    server.lease_seconds = 0.06
    server.heartbeat = beaten
    server.then(server.joined(), park, web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        assert await client.pull()
    assert len(peers) >= 2


@pytest.mark.parametrize(
    ("trouble", "patience_seconds", "words"),
    [
        (lambda server: server.refused("stage-lost", "stage 1 has left", last={}), 60, "stage 1 has left"),
        (lambda server: web.Response(text="?"), 0.05, "has answered no heartbeat for"),
        (lambda server: server.refused("busy", "later"), 0.05, None),
    ],
)
async def test_who_asks_is_told_that_the_life_is_over(trouble, patience_seconds, words, server):
    told = []
    server.lease_seconds = 0.06
    server.then(server.joined(), web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0", patience_seconds=patience_seconds) as client:
        client.tell_of_life_over(told.append)
        while server.heartbeats < 2:
            server.beaten.clear()
            await server.beaten.wait()
        assert not told
        server.heartbeat = lambda _: trouble(server)
        while not told and server.heartbeats < 12:
            server.beaten.clear()
            await server.beaten.wait()
    if words is None:
        assert not told
    else:
        assert words in str(told[0])


async def test_no_answer_to_a_heartbeat_ends_the_heartbeats(server):
    def trouble(request):
        match server.heartbeats % 3:
            case 0:
                request.transport.abort()
                return web.Response()
            case 1:
                return server.refused("evicted", last={})
            case _:
                return web.Response(text="?")

    server.lease_seconds = 0.03
    server.heartbeat = trouble
    server.then(server.joined(), web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0"):
        while server.heartbeats < 6:
            server.beaten.clear()
            await server.beaten.wait()
