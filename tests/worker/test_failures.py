"""What may pass and what never will, each met on a real socket."""

import asyncio
import json
import ssl
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from leeway.errors import BodyTooLarge, MalformedFrame, ServerLost, SettingError, WireError
from leeway.protocol.frames import encode
from leeway.protocol.pushes import Disposition, UpdateKind
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.transport.channel import Tensors
from leeway.transport.failures import FAILURES, Lost, judge
from leeway.worker.client import Client
from leeway.worker.session import backoff
from tests.worker.conftest import ScriptedServer, framed

FRAME = "application/vnd.leeway.frame"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.001)


@asynccontextmanager
async def answering(data):
    """A server that answers each connection with these bytes, whatever was asked."""

    async def serve(reader, writer):
        await reader.read(1)
        writer.write(data)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def join(url, patience_seconds=0.0):
    client = Client(url, "w0", patience_seconds=patience_seconds)
    try:
        await client.join()
    finally:
        await client.close()


# What never passes is told at once, however patient the worker is.


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer in HTTP/1.1, is that a Leeway server"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80", "does not answer in HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 10_000 + b"\r\n\r\n", "does not answer in HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", "cannot be read, is that a Leeway server"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "cannot be read"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + b"[" * 4000, "cannot be read"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "cannot be read"),
    ],
    ids=["ssh", "http/2", "a header too long", "html", "no object", "too deep", "no reason"],
)
async def test_a_reply_that_comes_as_a_whole_and_is_not_ours(data, words):
    async with answering(data) as port:
        with pytest.raises(SettingError, match=words):
            await join(f"http://127.0.0.1:{port}", patience_seconds=300.0)


async def test_tls_where_none_is_served():
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        with pytest.raises(SettingError, match="does not speak TLS as this side does"):
            await join(f"https://127.0.0.1:{port}", patience_seconds=300.0)


@pytest.mark.parametrize(
    "nonsense",
    [
        web.Response(body=b"LWAY", content_type=FRAME),
        web.Response(body=b"<html>", content_type="text/html"),
        web.Response(status=204, headers={"Leeway-Reason": "{"}),
        web.Response(status=304, headers={"Leeway-Grant": json.dumps({"version": "x"})}),
    ],
    ids=["a frame that ends early", "html", "no json", "no version"],
)
async def test_a_malformed_reply_in_the_middle_leaves_the_client_usable(server, nonsense):
    server.then(server.joined(), nonsense, server.granted(), web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        with pytest.raises(SettingError, match="cannot be read"):
            await client.pull()
        assert await client.pull()


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "501 Unsupported method ('POST')"])
async def test_a_server_that_has_no_such_thing(status):
    async with answering(f"HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\n<html>".encode()) as port:
        with pytest.raises(WireError, match=rf"answered HTTP {status[:3]}; is that a Leeway server\?"):
            await join(f"http://127.0.0.1:{port}", patience_seconds=300.0)


# What may pass is asked for again.


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{",
        b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
        b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["closed", "cut", "cut chunks", "only its end says how long it is", "a proxy's 502", "a proxy's 503"],
)
async def test_a_reply_that_broke_off_or_that_a_proxy_gave(data):
    async with answering(data) as port:
        with pytest.raises(ServerLost, match=r"has been away for more than 0 s: .*has the run ended already"):
            await join(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("url", "why"),
    [("http://127.0.0.1:1", "Connection refused"), ("http://name.invalid", "Name or service not known|[Nn]ame")],
)
async def test_a_server_that_is_not_there_yet(url, why):
    with pytest.raises(ServerLost, match=f"no connection to {url}: {why}"):
        await join(url)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (TimeoutError(), True),
        (ConnectionResetError("reset"), True),
        (OSError(113, "no route to host"), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientPayloadError("cut"), True),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), True),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), False),
        (aiohttp.InvalidURL("http://"), False),
        (BodyTooLarge("a body of 9 bytes; the limit is 8"), False),
        (MalformedFrame("magic"), False),
        (KeyError("lease_seconds"), False),
        (RecursionError("deep"), False),
    ],
    ids=repr,
)
def test_the_table(error, passes):
    assert isinstance(error, FAILURES)
    judged = judge(error, "http://host")
    assert isinstance(judged, Lost if passes else SettingError)
    assert "http://host" in str(judged)


# Sizes: what the server's own limits say.


def big(nbytes):
    layout = Layout.of([TensorSpec("weight", (nbytes,), "uint8", Kind.INTEGER_BUFFER)])
    return layout, Tensors(layout, [memoryview(bytearray(layout.nbytes))])


def limited(server, **limits):
    reply = json.loads(server.joined().body)
    reply["limits"] |= limits
    return web.json_response(reply)


async def test_a_model_that_no_frame_of_this_server_holds_is_not_offered(server):
    layout, _ = big(4096)
    server.then(limited(server, max_body_bytes=2048), server.granted(), web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        with pytest.raises(BodyTooLarge, match="4096 bytes, the server takes at most 2048; start it with --max-body"):
            await client.offer([place.spec for place in layout.places.values()], lambda _: pytest.fail("asked for"))
        await client.offer(server.specs, lambda _: pytest.fail("the server has it"))
        assert await client.pull()


async def test_an_update_that_no_frame_of_this_server_holds_is_not_sent_and_the_next_is(server):
    _, tensors = big(4096)
    server.then(
        limited(server, max_body_bytes=2048), server.granted(), server.pushed(0), web.json_response({"rank": "w0"})
    )
    async with Client(server.url, "w0") as client:
        await client.pull()
        with pytest.raises(BodyTooLarge, match="this update have 4096 bytes"):
            await client.push(UpdateKind.GRADIENT, 1, tensors)
        assert not client.conversation.in_hand
        outcome = await client.push(UpdateKind.GRADIENT, 1, server.tensors())
        assert outcome.disposition is Disposition.APPLIED


async def test_a_proxy_that_limits_bodies_is_named(server):
    server.then(server.joined(), server.granted(), web.Response(status=413, text="<html>"))
    server.then(web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        await client.pull()
        with pytest.raises(WireError, match="something before the server limits bodies"):
            await client.push(UpdateKind.GRADIENT, 1, server.tensors())
        assert not client.conversation.in_hand


@pytest.mark.parametrize(("limit", "taken"), [(8192, True), (2048, False)])
async def test_what_is_received_is_limited_by_what_the_server_says(server, limit, taken):
    layout, tensors = big(4096)
    granted = framed(encode(ScriptedServer.grant().to_fields(), layout, tensors.buffers))
    server.then(limited(server, max_body_bytes=limit), granted, web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0") as client:
        if taken:
            assert (await client.pull()).frame.body.nbytes == 4096
        else:
            with pytest.raises(SettingError, match="too large for this side: a body of 4096 bytes; the limit is 2048"):
                await client.pull()


async def test_a_limit_of_ones_own(server):
    layout, tensors = big(4096)
    granted = framed(encode(ScriptedServer.grant().to_fields(), layout, tensors.buffers))
    server.then(server.joined(), granted, web.json_response({"rank": "w0"}))
    async with Client(server.url, "w0", max_body_bytes=100) as client:
        with pytest.raises(SettingError, match="the limit is 100"):
            await client.pull()
