"""Many simulated workers in one process: they push and pull without computing anything in between.

`python -m tests.load.flood.crowd URL WORKERS MODEL_BYTES` is a peer; with `--bare` behind it, of a bare aiohttp server.

The one rule: each of them is a worker as the server sees one (a rank, a life, a connection, `worker.session` that
decides what it sends), and holds almost nothing: the update it pushes and the memory it receives into are everybody's.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import resource
import sys
import time
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import uvloop

from leeway.protocol import routes
from leeway.protocol.pushes import UpdateKind
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.transport.channel import Tensors
from leeway.transport.memory.glibc import keep_freed_memory
from leeway.worker.session.conversation import Conversation
from leeway.worker.session.shared_life import SharedLife
from leeway.worker.session.states import State
from tests.load.flood import messages
from tests.load.flood.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Sequence

# A connection for each worker, and what a process opens beside.
SPARE_FILES = 256

# How long the server may park a pull: longer than any round takes here.
WAIT_SECONDS = 100.0

# How many join at the same time: fewer than the server's backlog takes.
JOINING = 100

# Until all but one of a round have contributed, `/v1/status` is asked this often.
POLL_SECONDS = 0.02


def specs(model_bytes: int) -> tuple[TensorSpec, ...]:
    """A model of one tensor. Its size is a multiple of 64 bytes, so nothing but numbers is in a body."""
    assert model_bytes % 64 == 0
    return (TensorSpec("weight", (model_bytes // 4,), "float32", Kind.TRAINABLE),)


def update(model_bytes: int) -> Tensors:
    """What everybody pushes, and the first one offers: numbers as small as gradients."""
    part = np.random.default_rng(0).standard_normal(min(model_bytes // 4, 2**18), np.float32) * np.float32(1e-3)
    return Tensors(Layout.of(specs(model_bytes)), [np.resize(part, model_bytes // 4).data])


class Simulated(ABC):
    """One of the crowd."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @abstractmethod
    async def push_pull(self) -> float:
        """Push the update and pull what comes of it. Returns the seconds from the first byte out to the last one in."""


class Worker(Simulated):
    """One at a Leeway server. Raises `WireError` for a refusal that is for the user; nothing is refused here."""

    def __init__(self, rank: str, host: str, connection: Connection, tensors: Tensors) -> None:
        super().__init__(connection)
        self.conversation = Conversation(
            SharedLife(rank, lambda: uuid.uuid4().hex), random=random.Random(0), wait_seconds=WAIT_SECONDS
        )
        self._host = host
        self._tensors = tensors

    async def join(self) -> None:
        """Begin a life."""
        while self.conversation.state is State.JOINING:
            await self._ask()

    async def offer(self) -> None:
        """Offer the initial values."""
        self.conversation.offer(specs(self._tensors.layout.nbytes))
        while self.conversation.state is State.OFFERING:
            await self._ask()

    async def pull(self) -> float:
        """See to it that the parameters of this iteration are granted. Returns the seconds of its requests."""
        seconds = 0.0
        while self.conversation.state is not State.COMPUTING:
            seconds += await self._ask()
        return seconds

    async def push_pull(self) -> float:
        self.conversation.computed(UpdateKind.GRADIENT, 1)
        return await self.pull()

    async def leave(self) -> None:
        self.conversation.leave()
        while self.conversation.state is not State.ENDED:
            await self._ask()

    async def _ask(self) -> float:
        ask = self.conversation.ask()
        assert ask is not None
        if self.conversation.delay_seconds:
            await asyncio.sleep(self.conversation.delay_seconds)
        head, body = messages.request(ask, self._tensors, self._host)
        began = time.perf_counter()
        response = await self.connection.exchange(head, body)
        seconds = time.perf_counter() - began
        self.conversation.answered(ask, messages.reply(ask, response))
        return seconds


class Bare(Simulated):
    """One at the handler of `bare`: the same number of bytes each way, and nobody looks at them."""

    def __init__(self, connection: Connection, host: str, body_bytes: int) -> None:
        super().__init__(connection)
        self._body = bytes(body_bytes)
        length = f"Content-Length: {body_bytes}"
        self._head = messages.head("POST", routes.UPDATES, host, "Content-Type: application/octet-stream", length)

    async def push_pull(self) -> float:
        began = time.perf_counter()
        await self.connection.exchange(self._head, [self._body])
        return time.perf_counter() - began


class Crowd:
    """All of them, and what they do when they are told to."""

    def __init__(self, url: str, model_bytes: int) -> None:
        parts = urlsplit(url)
        self.address = parts.hostname or "", parts.port or 80
        self.host = parts.netloc
        self.model_bytes = model_bytes
        self.tensors = update(model_bytes)
        self.shared = memoryview(bytearray(model_bytes))
        self.members: Sequence[Simulated] = ()
        self._running: list[asyncio.Task[None]] = []
        self._ending = False
        self._answered: list[int] = []
        self._latencies: list[float] = []

    async def bare(self, count: int) -> None:
        self.members = [Bare(await self._connect(), self.host, self.model_bytes) for _ in range(count)]

    async def join(self, count: int) -> None:
        """All begin their lives and pull. The first one offers the initial values."""
        workers = [Worker(f"w{index}", self.host, await self._connect(), self.tensors) for index in range(count)]
        self.members = workers
        for begin in range(0, count, JOINING):
            await asyncio.gather(*(one.join() for one in workers[begin : begin + JOINING]))
        await workers[0].offer()
        # Under sync round 0 opens when all have joined, and then for all.
        await asyncio.gather(*(one.pull() for one in workers))

    async def _connect(self) -> Connection:
        return await Connection.open(*self.address, self.shared)

    async def mark(self) -> dict[str, Any]:
        """What all have sent and received so far, and the updates they have made."""
        return {
            "updates": sum(self._answered),
            "sent_bytes": sum(one.connection.sent_bytes for one in self.members),
            "received_bytes": sum(one.connection.received_bytes for one in self.members),
        }

    # Each for itself.

    async def begin(self, seconds: float, at_most: float) -> dict[str, Any]:
        """Start pushing and pulling; wait so long, and until everybody has been answered, but not longer than
        `at_most`."""
        self._answered = [0] * len(self.members)
        self._running = [asyncio.create_task(self._run(place, one)) for place, one in enumerate(self.members)]
        await self._pass(seconds, at_most)
        return {}

    async def window(self, seconds: float, at_most: float) -> dict[str, Any]:
        """What is done in the next `seconds`, and until everybody has been answered, but not longer than `at_most`."""
        self._latencies.clear()
        moved, cpu_seconds, began = self._moved_bytes(), _cpu_seconds(), time.perf_counter()
        await self._pass(seconds, at_most)
        latencies = sorted(self._latencies)
        return {
            "seconds": time.perf_counter() - began,
            "updates": len(latencies),
            "moved_bytes": self._moved_bytes() - moved,
            "p50_seconds": _quantile(latencies, 0.5),
            "p99_seconds": _quantile(latencies, 0.99),
            "longest_seconds": _quantile(latencies, 1.0),
            "cpu_seconds": _cpu_seconds() - cpu_seconds,
        }

    async def end(self) -> dict[str, Any]:
        """Push no more, and wait for the answers under way. Answers as `mark` does."""
        self._ending = True
        await asyncio.gather(*self._running)
        return await self.mark()

    async def _run(self, place: int, one: Simulated) -> None:
        while not self._ending:
            self._latencies.append(await one.push_pull())
            self._answered[place] += 1

    async def _pass(self, seconds: float, at_most: float) -> None:
        """Wait so long, and for an answer to each. Raises what any of them has raised."""
        before = self._answered.copy()
        until, deadline = time.perf_counter() + seconds, time.perf_counter() + at_most
        while (now := time.perf_counter()) < deadline:
            if now >= until and all(has > had for has, had in zip(self._answered, before, strict=True)):
                return
            wait = max(0.001, min(deadline, until) - now) if now < until else POLL_SECONDS
            ended, _ = await asyncio.wait(self._running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()

    def _moved_bytes(self) -> int:
        return sum(one.connection.sent_bytes + one.connection.received_bytes for one in self.members)

    # All together, under sync.

    async def rounds(self, seconds: float, at_least: int) -> dict[str, Any]:
        """Rounds in which all but one are parked; then comes the last contribution.

        Of each round: seconds from there to the first answer and to the last one.
        """
        watch = await self._connect()
        *others, last = self.members
        took: list[tuple[float, float]] = []
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline or len(took) < at_least:
            answers: list[float] = []
            parked = [asyncio.create_task(self._contribute(one, answers)) for one in others]
            await self._until_one_is_missing(watch)
            began = time.perf_counter()
            await asyncio.gather(self._contribute(last, answers), *parked)
            took.append((answers[0] - began, answers[-1] - began))
        watch.close()
        return {"rounds": took}

    async def _contribute(self, one: Simulated, answers: list[float]) -> None:
        await one.push_pull()
        answers.append(time.perf_counter())

    async def _until_one_is_missing(self, watch: Connection) -> None:
        while True:
            response = await watch.exchange(messages.head("GET", routes.STATUS, self.host))
            if len(json.loads(response.content)["groups"]["default"]["round"]["waits_for"]) == 1:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def leave(self) -> dict[str, Any]:
        workers = [one for one in self.members if isinstance(one, Worker)]
        await asyncio.gather(*(one.leave() for one in workers))
        return {"left": len(workers)}


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """By the nearest rank: a figure that was measured. None of nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def raise_open_files(wanted: int) -> int:
    """Have at least so many files open at a time, if the system lets us. Returns how many it does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


async def _serve(url: str, count: int, model_bytes: int, *, bare: bool) -> None:
    crowd = Crowd(url, model_bytes)
    await (crowd.bare(count) if bare else crowd.join(count))
    print(json.dumps({"joined": count}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        answer = await getattr(crowd, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


def main() -> None:
    url, count, model_bytes, *bare = sys.argv[1:]
    keep_freed_memory()
    raise_open_files(int(count) + SPARE_FILES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(url, int(count), int(model_bytes), bare=bool(bare)))


if __name__ == "__main__":
    main()
