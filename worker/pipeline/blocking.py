"""The neighbours of a stage, for a computing thread: calls that wait for the loop of its client.

The one rule: nothing is decided or kept here that the loop's side knows. Tensors are packed and unpacked in the thread
that computes, the loop moves bytes.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from leeway.errors import WireError
from leeway.protocol import limits
from leeway.protocol.addresses import in_the_clear
from leeway.protocol.handovers import ROUNDED, Direction, Label
from leeway.transport.credentials.bearer import Bearer
from leeway.worker.forks import Home
from leeway.worker.pipeline.addresses import advertised, route_to
from leeway.worker.pipeline.neighbourhood import Neighbourhood
from leeway.worker.pipeline.neighbours import Unlike
from leeway.worker.pipeline.parcels import pack, unpack
from leeway.worker.pipeline.peers import Peers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from leeway.protocol.handovers import Call
    from leeway.protocol.lives import Life
    from leeway.worker.blocking import BlockingClient
    from leeway.worker.pipeline.carried import Carried
    from leeway.worker.pipeline.neighbours import Handed

# Enough that the next is on its way while the answer to the last is on its way back.
IN_FLIGHT = 2


_log = structlog.get_logger("worker.pipeline")


class BlockingNeighbours:
    """`Neighbours` over the network, as long as `client` lives; for one thread, but for `drop`.

    It listens at `host` (by default this machine's own address on the way to the server, loopback for a server of this
    machine) and `port` (0: a free one); `address` is what the join tells the other stages, made of `advertise`
    (HOST[:PORT]) where they reach it by another. `wire_dtype`: "bfloat16" rounds floating activations and errors for
    the way. Tensors that lie contiguous in the CPU's memory are sent from there, shares aside: they stay as they are
    until the iteration ends. Raises `SettingError` and `ValueError`.
    """

    def __init__(
        self,
        client: BlockingClient,
        server: str,
        *,
        host: str | None = None,
        port: int = 0,
        advertise: str | None = None,
        wire_dtype: str | None = None,
    ) -> None:
        if wire_dtype not in (None, ROUNDED):
            raise ValueError(f"wire_dtype is {wire_dtype!r}, it must be {ROUNDED!r} or None: as computed")
        self._client = client
        self._home = Home("this stage")
        self._rounded = wire_dtype is not None
        route = route_to(server)

        async def begin() -> tuple[Neighbourhood, str]:
            there = Neighbourhood(client.client.credentials)
            # It must not refer to the client, which would never be let go of.
            client.end_with(there.close)
            return there, await there.open(host or route, port)

        self._there, bound = client.run(begin)
        if in_the_clear(bound):
            detail = "who sees the network sees activations: give every stage PS_TLS_CA, PS_TLS_CERT and PS_TLS_KEY"
            _log.warning("stages speak unencrypted", address=bound, detail=detail)
        self.address = advertised(bound, route, advertise)
        self._peers: Peers | None = None
        self._clock = 0
        self._call: Call | None = None

    def begin_life(
        self,
        life: Life,
        stage: int,
        stages: int,
        addresses: Sequence[str],
        secret: str,
        *,
        micro_batches: int,
        room: int,
        in_flight: int = IN_FLIGHT,
        max_body_bytes: int = limits.DEFAULT_MAX_BODY_BYTES,
    ) -> None:
        """As the join says: `addresses` of all stages by number. What is left of the life before is dropped.

        `room`: how many handovers may wait here of each sender and direction, as many as the schedule is ahead.
        `max_body_bytes`: of the largest one, all its tensors together.
        """
        peers = Peers(
            life, stage, stages, tuple(addresses), Bearer(secret), micro_batches, room, in_flight, max_body_bytes
        )
        self._client.run(lambda: self._there.begin_life(peers))
        self._peers = peers

    def watch(self, seconds: float) -> None:
        """The run is complete, and the server says no more: a neighbour that cannot be reached for so long is lost."""
        self._client.run(lambda: self._there.watch(seconds))

    def close(self, why: str) -> None:
        """Nothing is handed over any more, and no neighbour is answered: what comes after this raises `Dropped`."""
        self._client.run(lambda: self._there.close(why))

    def begin(self, clock: int, call: Call) -> None:
        """The next iteration of this life, for that call. Raises `Dropped`."""
        self._client.run(lambda: self._there.begin(clock))
        self._clock, self._call = clock, call

    def send(self, stage: int, handed: Handed) -> None:
        """To that stage. Returns at once unless too much is in flight; then waits. Raises `Dropped`."""
        peers, call = self._peers, self._call
        assert peers is not None, "a life has begun"
        assert call is not None, "an iteration has begun"
        label = Label(peers.life, peers.stage, stage, self._clock, handed.direction, handed.micro_batch)
        parcel = pack(label, call, handed, rounded=self._rounded)
        self._client.run(lambda: self._there.send(parcel))

    def receive(self, stage: int, direction: Direction, micro_batch: int) -> Handed:
        """From that stage; waits. Raises `Dropped`, and `Unlike` where that stage's script has made another call."""
        arrived = self._client.run(lambda: self._there.receive(stage, direction, micro_batch))
        theirs, mine = arrived.handover.call, self._call
        if theirs != mine:
            raise Unlike(f"stage {stage} has begun to {theirs}, and this stage to {mine}")
        return unpack(arrived)

    def flush(self) -> None:
        """Wait until all that was sent has been taken. Raises `Dropped`."""
        self._client.run(self._there.flush)

    def drop(self, why: str, life: Life | None = None) -> None:
        """The life is over: who waits raises `Dropped`, and so do later calls until the next begins. From any thread,
        at any moment; waits for nothing. `life`: not if another one has begun meanwhile.
        """
        if self._home.here:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._there.loop.call_soon_threadsafe(self._there.drop, why, life)

    @property
    def on_life_over(self) -> Callable[[Exception], None]:
        """For the client's heartbeats (`Client.tell_of_life_over`): the life is over, and nobody will hand this stage
        anything any more. It refers to no client, which would never be let go of.
        """
        there = self._there
        return lambda error: there.drop(error.detail if isinstance(error, WireError) else str(error))

    @property
    def carried(self) -> Carried:
        """How much so far, for metrics."""
        return replace(self._there.carried)
