"""A client without manners: it sends exactly the bytes it is told to, and a worker that speaks through it.

It can stop in the middle, lie about lengths and never read a reply. aiohttp's client would do none of that.
"""

import asyncio
import itertools
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

import msgpack
import numpy as np

from leeway.protocol.decoder import decode
from leeway.protocol.frames import HEADER, MAGIC, encode
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec, aligned

FRAME = "application/vnd.leeway.frame"
PROBLEM = "application/problem+json"

# Longer than anything here takes; only a test that fails waits for it.
PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def kind(self):
        return self.headers.get("content-type", "").partition(";")[0]

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def frame(self):
        assert self.kind == FRAME, self
        return decode(self.body)

    @property
    def problem(self):
        """The problem document, checked to be one."""
        assert self.kind == PROBLEM, self
        document = self.json
        assert document["status"] == self.status
        assert document["type"] == f"urn:leeway:problem:{document['code']}"
        assert document["title"] == document["code"].replace("-", " ")
        assert document["detail"]
        assert "Traceback" not in document["detail"]
        return document

    def refused(self, status, code, *words):
        """Assert a refusal with this status and code, whose detail has all of these words; return the document."""
        document = self.problem
        assert (self.status, document["code"]) == (status, code), document
        for word in words:
            assert word in document["detail"], document["detail"]
        return document


class Connection:
    """One TCP connection, byte by byte."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def send_head(self, method, target, headers):
        lines = [
            f"{method} {target} HTTP/1.1",
            "Host: 127.0.0.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        await self.send(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def request(self, method, target, body=None, headers=None):
        headers = dict(headers or {})
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        if body is not None:
            headers.setdefault("Content-Length", len(body))
        await self.send_head(method, target, headers)
        if body:
            await self.send(body)
        return await self.reply(method)

    async def reply(self, method="GET"):
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")[:-2]
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            status = int(first.split()[1])
            if method == "HEAD" or status in (100, 204, 304):
                return Reply(status, headers)
            return Reply(status, headers, await self.reader.readexactly(int(headers["content-length"])))

    async def closed(self):
        """Wait until the server has closed; return what it still sent."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def abort(self):
        self.writer.transport.abort()


@asynccontextmanager
async def connect(host, port, *, small=False):
    """`small`: with the smallest buffers, so that a reply which is not read stays with its sender."""
    sock = socket.socket()
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024 if small else 65_536)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


# Frames, in order and out of order.


def spec_of(name, array):
    if not np.issubdtype(array.dtype, np.floating):
        kind = Kind.INTEGER_BUFFER
    else:
        kind = Kind.FLOAT_BUFFER if name.startswith("mean") else Kind.TRAINABLE
    return TensorSpec(name, array.shape, str(array.dtype), kind)


def frame(message, tensors=None):
    """A frame in good order with these arrays, as bytes."""
    if tensors is None:
        return b"".join(encode(message))
    layout = Layout.of(spec_of(name, array) for name, array in tensors.items())
    body = bytearray(layout.nbytes)
    for name, place in layout.places.items():
        body[place.offset_bytes : place.end_bytes] = tensors[name].tobytes()
    return b"".join(encode(message, layout, [body]))


def raw_frame(metadata, body=b"", *, magic=MAGIC, version=1, flags=0, metadata_bytes=None, body_bytes=None):
    """A frame as it is told, whether or not that makes sense."""
    packed = metadata if isinstance(metadata, bytes) else msgpack.packb(metadata)
    metadata_bytes = len(packed) if metadata_bytes is None else metadata_bytes
    body_bytes = len(body) if body_bytes is None else body_bytes
    head = HEADER.pack(magic, version, flags, metadata_bytes, 0, body_bytes, 0) + packed
    return head.ljust(aligned(len(head)), b"\0") + body


def arrays(frame_or_reply):
    """The tensors of a frame as numpy arrays."""
    decoded = getattr(frame_or_reply, "frame", frame_or_reply)
    return {
        spec.name: np.frombuffer(decoded.tensor(spec.name), spec.dtype).reshape(spec.shape) for spec in decoded.specs
    }


class Worker:
    """A rank at the server: what it was told last, and the requests that follow from that."""

    sessions = itertools.count()

    def __init__(self, server, rank):
        self.server, self.rank = server, rank
        self.session = f"session-{next(self.sessions)}"
        self.clock = 0
        self.version = self.round = None

    @property
    def life(self):
        return {"rank": self.rank, "epoch": self.epoch, "incarnation": self.incarnation}

    async def join(self, **changes):
        reply = await self.server.post("/v1/workers", {"rank": self.rank, "session": self.session} | changes)
        assert reply.status == 200, reply
        self.epoch, self.incarnation = reply.json["epoch"], reply.json["incarnation"]
        for group in reply.json["groups"].values():
            self.clock = group["clock"]
        return self

    async def leave(self):
        target = f"/v1/workers/{self.rank}?epoch={self.epoch}&incarnation={self.incarnation}"
        return await self.server.request("DELETE", target)

    def pull_target(self, **changes):
        query = {**self.life, "clock": self.clock} | changes
        return "/v1/params?" + "&".join(f"{name}={quote(str(value))}" for name, value in query.items())

    async def pull(self, *, wait=None, **changes):
        headers = {"Accept": FRAME} | ({} if wait is None else {"Prefer": f"wait={wait}"})
        reply = await self.server.get(self.pull_target(**changes), headers=headers)
        self.take(reply)
        return reply

    def take(self, reply):
        """Remember what a pull was granted."""
        if reply.status == 200:
            self.granted(reply.frame.message)
        elif reply.status == 304:
            self.granted(json.loads(reply.headers["leeway-grant"]))

    def granted(self, grant):
        self.clock, self.round = grant["clock"], grant["round"]
        self.version = int(grant["version"].partition(".")[2])

    def push_message(self, **changes):
        message = {**self.life, "clock": self.clock, "version": self.version, "kind": "gradient", "samples": 8}
        if self.round is not None:
            message["round"] = self.round
        return message | changes

    def push_body(self, tensors, **changes):
        return frame(self.push_message(**changes), tensors)

    async def push(self, tensors, *, query="", wait=None, **changes):
        headers = {} if wait is None else {"Prefer": f"wait={wait}"}
        reply = await self.server.push(self.push_body(tensors, **changes), query=query, headers=headers)
        if reply.status in (200, 202) and reply.kind != FRAME and "disposition" in reply.json:
            self.clock += 1
        return reply

    async def step(self, tensors, **fields):
        """A granted pull and its push."""
        assert (await self.pull()).status in (200, 304)
        reply = await self.push(tensors, **fields)
        assert reply.status in (200, 202), reply
        return reply
