"""Connections that break the rules: what is no HTTP, who goes away in the middle, who is gone without a word."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import uvloop

from leeway.protocol.limits import MAX_LEASE_SECONDS
from leeway.transport.http.connection import options
from tests import linux
from tests.end_to_end.commands import Commands
from tests.load import tunnel
from tests.ps.server.rawclient import FRAME, Worker
from tests.ps.server.serving import serve
from tests.ps.server.test_lifecycle import run as run

HEAD = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/workers HTTP/1.1\r\nHost: 127.0.0.1\r\n"

# Bytes that are no request, and what the refusal speaks of.
MALFORMED = {
    "no request line": (b"HELLO\r\n\r\n", "method"),
    "an absurd method": (b"BREW /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "method"),
    "a method that is no text": (b"G\xff\x00T /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "method"),
    "another version": (b"GET /livez HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", "HTTP version"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "HTTPS"),
    "no host": (b"GET /livez HTTP/1.1\r\n\r\n", "Host"),
    "two hosts": (HEAD + b"Host: y\r\n\r\n", "Host"),
    "a NUL in a header": (HEAD + b"A: \0\r\n\r\n", "header value"),
    "a NUL in the target": (b"GET /li\0vez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", ""),
    "a target that is none": (b"GET http://[ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", ""),
    "a header without a colon": (HEAD + b"nothing\r\n\r\n", "header"),
    "a header over its limit": (HEAD + b"A: " + b"a" * 100_000 + b"\r\n\r\n", "8190 bytes"),
    "a target over its limit": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "8190 bytes"),
    "too many headers": (HEAD + b"A: b\r\n" * 1000 + b"\r\n", "Too many headers"),
    "a length that is no number": (POST + b"Content-Length: abc\r\n\r\n", "Content-Length"),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", "Content-Length"),
    "a length beyond all": (POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", "Content-Length"),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "Content-Length"),
    "a length and chunks": (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
    "an unknown encoding": (POST + b"Transfer-Encoding: rot13\r\n\r\n{}", "Transfer-Encoding"),
    "a chunk that is none": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk size"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_what_is_not_http_is_refused_with_a_problem_document(server, case):
    data, word = MALFORMED[case]
    async with server.untouched(), server.connect() as connection, server.connect() as other:
        assert (await other.request("GET", "/livez")).status == 200
        await connection.send(data)
        document = (await connection.reply()).refused(400, "malformed-request", word)
        assert len(document["detail"]) < 300
        assert await connection.closed() == b"", "nothing more comes, and the connection is closed"
        assert (await other.request("GET", "/livez")).status == 200, "other connections live"
    assert server.metric("refused_total", route="unknown", code="malformed-request") == 1


@pytest.mark.parametrize("target", ["/v1/workers", "/v1/updates", "/v1/params", "/v1/policy"])
async def test_a_body_that_stops_making_sense_in_the_middle(server, target):
    """Its handler waits for the body already."""
    method = "PUT" if target in ("/v1/params", "/v1/policy") else "POST"
    async with server.untouched(), server.connect() as connection:
        await connection.send_head(method, target, {"Content-Type": FRAME, "Transfer-Encoding": "chunked"})
        await connection.send(b"2\r\n{ \r\n")
        assert (await server.get("/livez")).status == 200
        await connection.send(b"zz\r\n")
        reply = await connection.reply()
        reply.refused(400, "malformed-request", "chunk")
        assert reply.headers["connection"] == "close"
        assert await connection.closed() == b""


async def test_such_a_body_behind_a_request_that_is_not_answered_yet(server):
    """Its handler has not begun."""
    async with server.connect() as connection:
        await connection.send_head("GET", "/v1/params?min_version=2", {"Prefer": "wait=60"})
        await connection.send(POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{ \r\n")
        assert (await server.get("/livez")).status == 200
        await connection.send(b"zz\r\n")
        await server.offer({"more": np.zeros(1, np.float32)})
        assert (await connection.reply()).status == 200
        (await connection.reply()).refused(400, "malformed-request", "chunk")
        assert await connection.closed() == b""


@pytest.mark.parametrize("protocol", ["h2c", "H2C", "tls/1.3", "nonsense"])
@pytest.mark.parametrize("together", [True, False], ids=["pipelined", "one after the other"])
async def test_an_upgrade_that_is_not_made_is_answered_and_nothing_is_swallowed(server, protocol, together):
    upgrade = HEAD + f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: x\r\n\r\n".encode()
    async with server.connect() as connection:
        await connection.send(upgrade + (HEAD + b"\r\n" if together else b""))
        reply = await connection.reply()
        assert (reply.status, reply.json) == (200, {"live": True})
        assert reply.headers["connection"] == "close", "so the asker knows that nothing behind it was taken"
        assert await connection.closed() == b""


async def test_an_upgrade_with_a_body(server):
    async with server.connect() as connection:
        body = b'{"rank": "w0", "session": "s"}'
        headers = b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(body)
        await connection.send(POST + headers + body[:5])
        await connection.send(body[5:] + HEAD + b"\r\n")
        reply = await connection.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await connection.closed() == b""


async def test_a_websocket_is_declined_and_the_connection_serves_on(server):
    async with server.connect() as connection:
        await connection.send((HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n") * 2 + HEAD + b"\r\n")
        for _ in range(3):
            assert (await connection.reply()).json == {"live": True}


async def test_resets_and_nonsense_leave_no_line_in_the_log(run):
    """In the middle of replies of all sorts and of requests; the process says what it always says."""
    server = await run("--mode", "async", "--log-format", "json")
    await server.offer({"weight": np.zeros(4_000_000, np.float32)})
    worker = await Worker(server, "w0").join()
    await worker.pull()
    requests = [
        HEAD.replace(b"/livez", b"/v1/params") + b"Accept: " + FRAME.encode() + b"\r\n\r\n",
        HEAD.replace(b"/livez", b"/v1/params") + b"\r\n",
        HEAD.replace(b"/livez", b"/v1/events") + b"\r\n",
        HEAD.replace(b"/livez", b"/v1/params?min_version=9") + b"Prefer: wait=60\r\n\r\n",
    ]
    for round_ in range(5):
        for request in requests:
            async with server.connect(small=True) as connection:
                await connection.send(request)
                if b"min_version" not in request:
                    await connection.reader.readexactly(100 + 10_000 * round_ * (b"events" not in request))
        async with server.connect() as connection:
            await connection.send(POST + b"Content-Length: 1000\r\n\r\n{")
        async with server.connect() as connection:
            headers = {"Content-Type": FRAME, "Content-Length": 16_000_000}
            await connection.send_head("POST", "/v1/updates", headers)
            await connection.send(worker.push_body({"weight": np.zeros(4_000_000, np.float32)})[:100_000])
    for data, _ in MALFORMED.values():
        async with server.connect() as connection:
            await connection.send(data)
            await connection.closed()
    assert (await worker.push({"weight": np.ones(4_000_000, np.float32)})).status == 200, "the server lives"
    server.process.terminate()
    code, said = await server.ended()
    assert code == 0
    assert "Traceback" not in said
    events = [json.loads(line)["event"] for line in said.splitlines()]
    assert events == ["listening", "joined", "waits", "stopped"]


# Half-open connections.


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("lease_seconds", [0.5, 10.0, 120.0, MAX_LEASE_SECONDS])
def test_accepted_sockets_are_probed_and_lost_after_one_lease(loop_factory, lease_seconds):
    async def read():
        async with serve(mode="async", lease_seconds=lease_seconds) as server, server.connect() as connection:
            assert (await connection.request("GET", "/livez")).status == 200
            (accepted,) = [transport.get_extra_info("socket") for transport in server.connections()]
            return {
                name: accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
                if hasattr(socket, name)
            } | {"SO_KEEPALIVE": accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        found = runner.run(read())
    probe_seconds = max(1, int(lease_seconds / 3))
    wanted = {"TCP_KEEPIDLE": probe_seconds, "TCP_KEEPINTVL": probe_seconds, "TCP_KEEPCNT": 3, "SO_KEEPALIVE": 1}
    wanted["TCP_USER_TIMEOUT"] = lease_seconds * 1000
    assert found == {name: value for name, value in wanted.items() if name in found}
    assert found["SO_KEEPALIVE"] == 1


def test_a_platform_without_these_options(monkeypatch):
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
        monkeypatch.delattr(socket, name, raising=False)
    assert list(options(10.0)) == [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]


@contextmanager
def cut_off():
    """A network of its own, and a way to cut its only wire. Skips where there can be none."""
    if why := tunnel.why_not():
        pytest.skip(why)
    with tunnel.namespaces(1) as (name,):
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        yield name, lambda: subprocess.run(["ip", "-n", name, "link", "set", "lo", "down"], check=True)


def inside(name, action):
    """What `action` returns, called by a thread in that network."""
    found = []

    def enter():
        with open(f"/run/netns/{name}", "rb") as network:
            linux.enter_network(network.fileno(), name)
        found.append(action())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_a_worker_whose_cable_is_pulled_does_not_live_on_its_parked_request(tmp_path):
    lease_seconds = 1.0
    with cut_off() as (name, cut), Commands(tmp_path) as commands:
        arguments = ["netns", "exec", name, sys.executable, "-m", "leeway.ps.cli", "--port", "0"]
        launcher = (
            f"import os; os.execvp('ip', {['ip', *arguments, '--lease', str(lease_seconds), '--workers', '2']!r})"
        )
        server = commands.python("server", "-c", launcher)
        address = server.address().removeprefix("http://")
        host, port = address.split(":")

        def park():
            connection = socket.create_connection((host, int(port)))
            body = b'{"rank": "w0", "session": "s"}'
            connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            epoch = connection.recv(65_536).partition(b'"epoch": ')[2].partition(b",")[0].decode()
            target = f"/v1/params?rank=w0&incarnation=1&clock=0&epoch={epoch}"
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nPrefer: wait=300\r\n\r\n".encode())
            return connection

        connection = inside(name, park)
        server.hear('"waits"')
        began = time.monotonic()
        cut()
        server.hear("lease-expired", seconds=30)
        assert time.monotonic() - began > lease_seconds
        connection.close()
