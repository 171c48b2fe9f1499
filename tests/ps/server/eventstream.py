"""A viewer of `/v1/events` that speaks through the client without manners: chunks and messages are taken apart here."""

import asyncio
import contextlib
import json
from dataclasses import dataclass

from tests.ps.server.rawclient import PATIENCE_SECONDS


@dataclass(frozen=True)
class Message:
    event: str
    id: int | None
    text: str

    @property
    def data(self):
        return json.loads(self.text, parse_constant=not_json)


def not_json(constant):
    raise AssertionError(f"{constant} is no JSON")


class Stream:
    """The messages of one connection, in order. `chunks`: how many writes they came in."""

    def __init__(self, connection, headers):
        self.connection, self.headers = connection, headers
        self.chunks = 0
        self._lines = []

    async def message(self):
        """The next message, None at the end of the stream. Every chunk must hold whole messages."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            if not self._lines and not await self._chunk():
                return None
        fields = {}
        while line := self._lines.pop(0):
            name, _, value = line.partition(": ")
            assert name in ("event", "id", "data"), line
            assert name not in fields, line
            fields[name] = value
        return Message(fields["event"], int(fields["id"]) if "id" in fields else None, fields["data"])

    async def _chunk(self):
        size = int(await self.connection.reader.readuntil(b"\r\n"), 16)
        chunk = await self.connection.reader.readexactly(size)
        assert await self.connection.reader.readexactly(2) == b"\r\n"
        if chunk:
            self.chunks += 1
            assert chunk.endswith(b"\n\n")
            self._lines = chunk.decode("ascii").split("\n")[:-1]
        return size

    async def next(self, event):
        """The data of the next message, which is to be this event."""
        message = await self.message()
        assert message is not None, f"the stream has ended without {event}"
        assert message.event == event, message
        return message.data

    async def greeting(self):
        """What one is told first: the status, the curve, and the decisions that had been taken (their number known)."""
        status, curve = await self.next("status"), await self.next("curve")
        decisions = [(await self.next("decision")) for _ in range(sum(line.startswith("id: ") for line in self._lines))]
        return status, curve["points"], decisions

    async def rest(self):
        """All that still comes, until the server ends the stream."""
        messages = []
        while message := await self.message():
            messages.append(message)
        return messages


@contextlib.asynccontextmanager
async def watch(server, headers=None, *, small=False):
    """A viewer of this server."""
    async with server.connect(small=small) as connection:
        await connection.send_head("GET", "/v1/events", headers or {})
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await connection.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")[:-2]
        assert first.split()[1] == "200", head
        yield Stream(connection, {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)})
