"""What a stage's door answers to whoever comes, as bytes on a socket."""

import asyncio
import contextlib
import json

import aiohttp
import pytest

from leeway.protocol.codes import Code
from leeway.protocol.frames import HEADER, MAGIC, encode
from leeway.protocol.handovers import Direction, Label, Taken
from leeway.protocol.http.requests import write_request
from leeway.protocol.lives import Life
from leeway.protocol.refusals import Refused
from leeway.protocol.routes import FRAME
from leeway.transport.credentials.bearer import Bearer
from leeway.transport.http.exchange import Exchange
from leeway.worker.pipeline import door
from leeway.worker.pipeline.neighbourhood import Neighbourhood
from leeway.worker.pipeline.parcels import pack
from leeway.worker.pipeline.peers import Peers
from tests.ps.server.serving import serve
from tests.worker.pipeline.stages import CALL, LIFE, NEXT_LIFE, SECRET, handed

FORWARD, BACKWARD, SHARE = Direction


class Stage:
    """Stage 1 of 2, in this loop; `url` is its door's."""

    def __init__(self, there, url):
        self.there = there
        self.url = url

    async def begin_life(self, life=LIFE, clock=0, **terms):
        addresses = ("http://127.0.0.1:9", self.url)
        terms = {"micro_batches": 8, "room": 1, "in_flight": 2, "max_body_bytes": 4096} | terms
        await self.there.begin_life(Peers(life, 1, 2, addresses, Bearer(SECRET), **terms))
        if clock is not None:
            await self.there.begin(clock)

    async def receive(self, micro_batch=0):
        return await self.there.receive(0, FORWARD, micro_batch)


@pytest.fixture
async def stage():
    there = Neighbourhood()
    url = await there.open("127.0.0.1", 0)
    yield Stage(there, url)
    await there.close()


@pytest.fixture
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


async def until(so):
    while not so():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


def parcel(micro_batch=0, *, clock=0, life=LIFE, elements=4):
    label = Label(life, 0, 1, clock, FORWARD, micro_batch)
    return pack(label, CALL, handed(FORWARD, micro_batch, elements=elements), rounded=False)


def body_of(one):
    parts = encode(one.handover.to_fields(), one.tensors.layout, one.tensors.buffers)
    return b"".join(bytes(part) for part in parts)


async def post(http, stage, one, *, body=None, query=None, headers=None, secret=SECRET):
    """The status, and the document."""
    call = write_request(one.handover)
    headers = {"Content-Type": FRAME} | (Bearer(secret).headers if secret else {}) | (headers or {})
    url = stage.url + call.path
    data = body_of(one) if body is None else body
    async with http.post(url, params=call.query | (query or {}), headers=headers, data=data) as response:
        return response.status, await response.json(content_type=None)


async def refused(http, stage, one=None, **more):
    status, document = await post(http, stage, one or parcel(), **more)
    assert document["status"] == status
    assert SECRET not in json.dumps(document)
    return status, document["code"], document["detail"]


async def test_a_handover_is_taken_and_once_more_it_is_known(stage, http):
    await stage.begin_life()
    for repeated in (False, True):
        told = {"clock": 0, "direction": "forward", "micro_batch": 0, "repeated": repeated}
        assert await post(http, stage, parcel()) == (200, told)
    arrived = await stage.receive()
    assert arrived.handover == parcel().handover
    assert bytes(arrived.frame.tensor("x")) == handed().tensors["x"].numpy().tobytes()


@pytest.mark.parametrize(
    ("more", "status", "code", "words"),
    [
        ({"secret": None}, 403, "unknown-neighbour", "the secret of w0#1 is missing: send the one that came with"),
        ({"secret": "guessed"}, 403, "unknown-neighbour", "the secret of w0#1 is another"),
        ({"secret": None, "headers": {"Authorization": "Basic eDp5"}}, 403, "unknown-neighbour", "is another"),
        ({"one": parcel(life=Life("w0", 6, 9))}, 403, "unknown-neighbour", "this is stage 1 of w0#1 (epoch 7)"),
        ({"query": {"sender": "1", "receiver": "2"}}, 403, "unknown-neighbour", "goes from stage 1 to 2"),
        ({"one": parcel(8)}, 422, "invalid-value", "micro-batch 8 of 8"),
        ({"query": {"direction": "sideways"}}, 400, "malformed-request", "'direction' is 'sideways', it must be"),
        ({"query": {"receiver": "0"}}, 400, "malformed-request", "forward from stage 0 goes to stage 1, not to 0"),
        ({"query": {"clock": "now"}}, 400, "malformed-request", "'clock' is 'now'"),
        ({"body": b"garbage" * 100}, 400, "malformed-frame", "wrong magic b'garb'"),
        ({"body": b""}, 400, "malformed-frame", "truncated: 0 of 32 bytes"),
        ({"body": body_of(parcel())[:-1]}, 400, "malformed-frame", "truncated"),
        ({"body": body_of(parcel()) + b"!"}, 400, "malformed-frame", "1 bytes follow the frame's end"),
        ({"body": encode({"samples": 1})[0]}, 400, "malformed-request", "'handed' is missing"),
        ({"headers": {"Content-Type": "text/plain"}}, 415, "unsupported-media", "tensors come in frames"),
        ({"headers": {"Content-Encoding": "gzip"}}, 415, "unsupported-media", "send it plain"),
        ({"one": parcel(elements=20_000)}, 413, "body-too-large", "a body of 80000 bytes; the limit is 4096"),
        (
            {"body": HEADER.pack(MAGIC, 1, 0, 10, 0, 2**40, 0) + bytes(100)},
            413,
            "body-too-large",
            "a body of 1099511627776 bytes; the limit is 4096",
        ),
    ],
)  # fmt: skip
async def test_refused(stage, http, more, status, code, words):
    await stage.begin_life()
    told = await refused(http, stage, **more)
    assert told[:2] == (status, code)
    assert words in told[2]
    assert stage.there.carried.received <= 1, "a whole frame at most"
    assert stage.there.carried.waiting == 0
    assert (await post(http, stage, parcel()))[0] == 200, "what was refused has taken no room"


async def test_a_huge_body_is_refused_by_what_is_declared(stage):
    """Not a byte of it is waited for."""
    await stage.begin_life()
    async with raw(stage, parcel(), declared=2**50) as (reader, _):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_nothing_else_is_answered(stage, http):
    for method, path, status in [("GET", "/v1/handovers", 405), ("POST", "/v1/updates", 404), ("GET", "/", 404)]:
        async with http.request(method, stage.url + path) as response:
            assert (response.status, (await response.json(content_type=None))["status"]) == (status, status)


async def test_a_parameter_server_is_handed_nothing():
    one = parcel()
    async with serve(mode="async") as server:
        exchange = Exchange(server.url, credentials=Bearer(SECRET))
        answer = await exchange.send(one.handover, one.tensors)
        await exchange.close()
    assert isinstance(answer.reply, Refused)
    assert answer.reply.error.code is Code.NOT_FOUND


class TestHolding:
    @pytest.fixture(autouse=True)
    def _soon(self, monkeypatch):
        monkeypatch.setattr(door, "HOLD_SECONDS", 0.05)

    @pytest.mark.parametrize("where", ["no life", "a life to come", "an iteration to come", "no iteration", "no room"])
    async def test_what_cannot_be_taken_for_long_is_to_be_sent_again(self, stage, http, where):
        one = parcel(1)
        match where:
            case "a life to come":
                await stage.begin_life()
                one = parcel(life=NEXT_LIFE)
            case "an iteration to come":
                await stage.begin_life()
                one = parcel(clock=1)
            case "no iteration":
                await stage.begin_life(clock=None)
            case "no room":
                await stage.begin_life()
                await post(http, stage, parcel(0))
        assert (await refused(http, stage, one))[:2] == (503, "busy")

    async def test_strangers_wait_in_small_numbers(self, stage, http, monkeypatch):
        monkeypatch.setattr(door, "MAX_EARLY", 2)
        monkeypatch.setattr(door, "HOLD_SECONDS", 30.0)
        waiting = [asyncio.create_task(post(http, stage, parcel(m), secret=None)) for m in range(2)]
        await until(lambda: stage.there._door._early == 2)
        status, code, words = await refused(http, stage, secret=None)
        assert (status, code) == (503, "busy")
        assert "2 handovers wait for a life to begin here" in words
        await stage.begin_life()
        assert {status for status, _ in await asyncio.gather(*waiting)} == {403}
        assert stage.there._door._early == 0

    async def test_a_stage_that_ends_says_so(self, stage, http, monkeypatch):
        monkeypatch.setattr(door, "HOLD_SECONDS", 30.0)
        waiting = asyncio.create_task(refused(http, stage))
        await until(lambda: stage.there._door._early)
        await stage.there.close()
        assert (await waiting)[:2] == (503, "stopping")

    async def test_a_life_that_is_over_is_said_so(self, stage, http):
        await stage.begin_life()
        stage.there.drop("stage 0 was lost")
        status, code, words = await refused(http, stage)
        assert (status, code, words) == (403, "unknown-neighbour", "the life w0#1 is over; join again")


@contextlib.asynccontextmanager
async def raw(stage, one, *, declared, headers=()):
    """A connection on which the head has been sent."""
    host, port = stage.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    call = write_request(one.handover)
    query = "&".join(f"{name}={value}" for name, value in call.query.items())
    lines = [
        f"POST {call.path}?{query} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {SECRET}",
        f"Content-Type: {FRAME}",
        f"Content-Length: {declared}",
        *headers,
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def test_whoever_asks_first_sends_when_there_is_room(stage, http):
    await stage.begin_life()
    await post(http, stage, parcel(0))
    content = body_of(parcel(1))
    async with raw(stage, parcel(1), declared=len(content), headers=["Expect: 100-continue"]) as (reader, writer):
        answer = asyncio.create_task(reader.readline())
        # The first one is received: not before is there a word.
        assert (await post(http, stage, parcel(0)))[1]["repeated"]
        assert not answer.done()
        await stage.receive(0)
        assert await answer == b"HTTP/1.1 100 Continue\r\n"
        await reader.readline()
        writer.write(content)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    assert (await stage.receive(1)).handover == parcel(1).handover


async def test_a_body_that_stops_takes_its_room_until_it_is_gone(stage, http):
    await stage.begin_life()
    content = body_of(parcel(0))
    async with raw(stage, parcel(0), declared=len(content)) as (_, writer):
        writer.write(content[:-1])
        await until(lambda: stage.there._door._receiving)
        again = asyncio.create_task(post(http, stage, parcel(0)))
    assert await again == (200, Taken.of(parcel(0).handover.label).to_fields())
    assert stage.there.carried.received == 1


async def test_a_dropped_life_cuts_off_what_is_coming(stage):
    await stage.begin_life()
    content = body_of(parcel(0))
    async with raw(stage, parcel(0), declared=len(content)) as (reader, writer):
        writer.write(content[:-1])
        await until(lambda: stage.there._door._receiving)
        stage.there.drop("stage 0 was lost")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert not stage.there._door._receiving
    assert stage.there.carried.received == 0
