"""A small real server whose replies are written down in the test: what a worker meets on the wire."""

import asyncio
import json
import os
import signal
import threading

import numpy as np
import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestServer

from leeway.errors import WireError
from leeway.protocol import routes
from leeway.protocol.codes import Code
from leeway.protocol.decoder import decode
from leeway.protocol.frames import encode
from leeway.protocol.membership import GroupState, Joined
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.pushes import Disposition, Pushed
from leeway.protocol.reasons import Reason
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.protocol.versions import Version
from leeway.transport.channel import Tensors

WEIGHT = TensorSpec("weight", (2, 3), "float32", Kind.TRAINABLE)
LAYOUT = Layout.of([WEIGHT])


def weights(value):
    """The body of a model of one tensor, all its values the same."""
    body = np.zeros(LAYOUT.nbytes // 4, np.float32)
    body[: WEIGHT.elements] = value
    return body.view(np.uint8).data


class Seen:
    """A request as it came in."""

    def __init__(self, request, body):
        self.line = f"{request.method} {request.path}"
        self.query = dict(request.query)
        self.headers = request.headers
        self.body = body

    @property
    def frame(self):
        return decode(self.body)

    @property
    def json(self):
        return json.loads(self.body)


class ScriptedServer:
    """Answers each request by the next entry of `script`, a response or what makes one from the request; but heartbeats
    and questions about the policy. `seen` has the requests, `heartbeats` counts those, `beaten` is set by each."""

    def __init__(self):
        self.script = []
        self.seen = []
        self.heartbeats = 0
        self.beaten = asyncio.Event()
        self.heartbeat = lambda request: web.json_response({"lease_seconds": self.lease_seconds})
        self.lease_seconds = 30.0
        # Asked by a session before it joins, to know that there is a server.
        self.policy = lambda request: web.json_response({"group": "default", "mode": "ssp", "staleness": 3})

    async def handle(self, request):
        if request.path.endswith("/lease"):
            self.heartbeats += 1
            self.beaten.set()
            return self.heartbeat(request)
        if (request.method, request.path) == ("GET", routes.POLICY):
            return self.policy(request)
        entry = self.script.pop(0)
        if callable(entry) and getattr(entry, "unread", False):
            return await entry(request)
        self.seen.append(Seen(request, await request.read()))
        return await entry(request) if callable(entry) else entry

    def then(self, *entries):
        self.script.extend(entries)

    # What a worker sends and gets: a model of one tensor, all of its values the same.

    specs = (WEIGHT,)
    layout = LAYOUT

    @staticmethod
    def tensors(value=0.5):
        return Tensors(LAYOUT, [weights(value)])

    @staticmethod
    def value_of(frame):
        (value,) = set(np.frombuffer(frame.tensor("weight"), np.float32).tolist())
        return value

    # What a server says.

    def joined(self, *, epoch=7, incarnation=1, resumed=False, clock=0, last=None, specs=(WEIGHT,), until=None):
        # Told of the same model by another worker, it need not ask this one.
        group = GroupState(clock, "ssp(3)", last, tuple(specs), whole=bool(specs))
        reply = Joined(epoch, incarnation, resumed, self.lease_seconds, 0, 1, {"default": group}, {}, until)
        return web.json_response(reply.to_fields())

    @staticmethod
    def grant(clock=0, number=1, epoch=7):
        return Granted(Version(epoch, number), Reason.GRANTED, clock=clock, lag=0, index=0, count=1)

    def granted(self, clock=0, number=1, value=1.0, epoch=7):
        message = self.grant(clock, number, epoch).to_fields()
        return framed(encode(message, LAYOUT, [weights(value)]))

    def unchanged(self, clock=0, number=1):
        grant = self.grant(clock, number).to_fields() | {"unchanged": True}
        return web.Response(status=304, headers={routes.GRANT_HEADER: json.dumps(grant)})

    @staticmethod
    def not_yet(reason=Reason.LAG):
        why = NotYet(reason, "leads w1 by 4 > 3", ("w1",)).to_fields()
        return web.Response(status=204, headers={routes.REASON_HEADER: json.dumps(why), "Retry-After": "1"})

    @staticmethod
    def result(clock=0, disposition=Disposition.APPLIED, reason=Reason.ON_ARRIVAL):
        return Pushed(clock, disposition, reason, 2, 0)

    def pushed(self, clock=0, disposition=Disposition.APPLIED):
        return web.json_response(self.result(clock, disposition).to_fields())

    def pushpulled(self, clock=0, number=2, value=2.0):
        message = {
            "push": self.result(clock).to_fields(),
            "pulled": "granted",
            "pull": self.grant(clock + 1, number).to_fields(),
        }
        return framed(encode(message, LAYOUT, [weights(value)]))

    def pushed_only(self, clock, pulled, pull):
        message = {"push": self.result(clock).to_fields(), "pulled": pulled, "pull": pull}
        return framed(encode(message))

    @staticmethod
    def refused(code, detail="no", headers=None, **facts):
        error = WireError(Code(code), detail, **facts)
        return web.json_response(error.to_document(), status=error.status, content_type=routes.PROBLEM, headers=headers)

    # How a server fails.

    @staticmethod
    def cut(response, length):
        """Send the first bytes of a response's body and break the connection."""

        async def handler(request):
            stream = web.StreamResponse(headers={"Content-Type": response.content_type})
            stream.content_length = len(response.body)
            await stream.prepare(request)
            await stream.write(response.body[:length])
            request.transport.close()
            return stream

        return handler

    @staticmethod
    async def interrupt(request):
        """Send Ctrl-C to the test, and answer nothing until the client has gone."""
        os.kill(os.getpid(), signal.SIGINT)
        while not request.transport.is_closing():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)
        return web.Response()

    @staticmethod
    async def break_off(request):
        """Break the connection without a word."""
        request.transport.abort()
        return web.Response()


def framed(buffers):
    return web.Response(body=b"".join(bytes(buffer) for buffer in buffers), content_type=routes.FRAME)


async def serve(scripted):
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    running = TestServer(app)
    await running.start_server()
    scripted.url = str(running.make_url("")).rstrip("/")
    return running


@pytest.fixture
async def server():
    """In the test's own event loop."""
    scripted = ScriptedServer()
    async with await serve(scripted):
        yield scripted
    assert scripted.script == [], "the worker has not asked for all that was written down"


@pytest.fixture
def far_server():
    """In a thread, for tests that block theirs."""
    scripted = ScriptedServer()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = asyncio.run_coroutine_threadsafe(serve(scripted), loop).result(10)
    yield scripted
    asyncio.run_coroutine_threadsafe(running.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
    assert scripted.script == [], "the worker has not asked for all that was written down"


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
