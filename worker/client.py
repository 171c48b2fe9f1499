"""The async client of a worker: `join offer pull push pushpull skip barrier leave`, over one HTTP session.

The one rule: the session decides and the client carries out. It sends what `Session.ask` gives until what was
called for has come true, keeps the bodies, waits out the back-off, and sends heartbeats beside all that.

    async with Client("http://localhost:8080", "w0") as client:
        await client.offer(specs, values)
        pulled = await client.pull()
        while pulled:
            ...
            outcome, pulled = await client.pushpull(UpdateKind.GRADIENT, samples, tensors)

Every call may be cancelled. What was sent may have been heard then; an update that was being pushed is still in
hand, and the next call first sees it to its end.

One call at a time; others wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from typing import TYPE_CHECKING, Any

import structlog

from leeway.errors import BodyTooLarge, ServerLost, SettingError, WireError
from leeway.protocol import routes
from leeway.protocol.addresses import server_url
from leeway.protocol.decoder import allocate_aligned
from leeway.protocol.frames import encode, frame_length
from leeway.protocol.limits import MAX_TENSOR_BYTES, MAX_WAIT_SECONDS
from leeway.protocol.reasons import Reason
from leeway.protocol.replies import Disposition, Granted, Joined, NotYet, Passed, PushPulled, Refused
from leeway.protocol.requests import DEFAULT_GROUP, Barrier, Offer, Push, UpdateKind
from leeway.protocol.spans import Layout
from leeway.transport.channel import Tensors, Traffic
from leeway.transport.failures import Lost
from leeway.transport.http.exchange import SILENCE_SECONDS, Exchange
from leeway.transport.memory.glibc import keep_freed_memory
from leeway.worker import arguments
from leeway.worker.forks import Home
from leeway.worker.heartbeat import beat
from leeway.worker.patience import Patience
from leeway.worker.receiving import Pulled, Receiving
from leeway.worker.session.backoff import Backoff
from leeway.worker.session.refusals import REACTIONS, Reaction
from leeway.worker.session.session import Ending, Outcome, Session, State
from leeway.worker.skips import RefusedInARow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from leeway.protocol.decoder import Allocate
    from leeway.protocol.frames import Buffer
    from leeway.protocol.replies import Reply
    from leeway.protocol.tensors import TensorSpec
    from leeway.protocol.times import StepTimes
    from leeway.transport.channel import Answer, Channel, Sent

    Values = Callable[[Layout], Sequence[Buffer]]

log = structlog.get_logger("worker.client")

# Long enough that a parked pull costs nothing, short enough that a dead path is noticed; proxies often give up
# on a silent request after 60.
WAIT_SECONDS = 20.0

# How long a server may be away before the worker gives up: longer than a machine takes to boot.
PATIENCE_SECONDS = 300.0

# How often it is said that a wait goes on.
TELL_AGAIN_SECONDS = 60.0

# The goodbye at the end of a `with` block, all its attempts together.
GOODBYE_SECONDS = 5.0


class Client:
    """One worker process at one server, in one group.

    `rank`: this worker's stable name. `wait_seconds`: how long the server may park one request.
    `patience_seconds`: how long it may be away. `silence_seconds`: how long a connection may be silent in the
    middle of something. `max_body_bytes`: the largest body that is received, by default the server's own limit.
    `channel`: makes what carries the requests, in place of HTTP to `url`.

    Calls raise `ServerLost`; `WireError` for a refusal that is for the user to mend, and `fenced` when another
    process has taken the rank; `ValueError` for a wrong argument, and (as `SettingError`) for what never passes: a
    certificate that is not to be trusted, a server that is no Leeway server; `RuntimeError` in a forked child.
    """

    def __init__(
        self,
        url: str,
        rank: str,
        *,
        group: str = DEFAULT_GROUP,
        wait_seconds: float = WAIT_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        max_body_bytes: int | None = None,
        channel: Callable[[], Channel] | None = None,
    ) -> None:
        arguments.name("rank", rank)
        arguments.name("group", group)
        wait_seconds = arguments.seconds("wait_seconds", wait_seconds, MAX_WAIT_SECONDS)
        patience_seconds = arguments.seconds("patience_seconds", patience_seconds, zero=True)
        silence_seconds = arguments.seconds("silence_seconds", silence_seconds)
        if max_body_bytes is not None:
            max_body_bytes = arguments.integer("max_body_bytes", max_body_bytes, 1, MAX_TENSOR_BYTES)
        self.url = server_url(url)
        keep_freed_memory()
        self.session = Session(
            rank,
            new_session=lambda: uuid.uuid4().hex,
            random=random.Random(),
            group=group,
            wait_seconds=wait_seconds,
        )
        self.waiting: NotYet | None = None
        """Why the last parked request was sent away; None when the last one was answered."""
        self.traffic = Traffic()
        """Of all calls so far; heartbeats are not counted."""
        self.sent_again = 0
        """How many requests so far were lost, or refused for now; each is sent again."""

        self._home = Home(f"the worker {rank}")
        self._patience = Patience(self.url, rank, patience_seconds)
        self._silence_seconds = silence_seconds
        self._max_body_bytes = max_body_bytes
        self._receiving = Receiving(allocate_aligned)
        self._values: Values | None = None
        # Invariant: what the update in hand is made of, untouched until that has had its end.
        self._tensors: Tensors | None = None
        self._fits: Layout | None = None  # whose table was found to fit into a frame
        self._refused = RefusedInARow()
        self._failed_steps = 0
        self._late = 0
        self._tell_again_at = 0.0
        self._open = channel or (lambda: Exchange(self.url, silence_seconds=silence_seconds))
        self._channel: Channel | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def receive_into(self, allocate: Allocate) -> None:
        """Let `allocate(nbytes)` make the (at most two) buffers for received bodies, from now on."""
        self._receiving.new = allocate

    # Beginning and end.

    async def __aenter__(self) -> Client:
        await self.join()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def join(self) -> None:
        """Begin a life, unless there is one. `session` then has the clock, the policy, index and count."""
        async with self._turn:
            await self._drive(self._has_joined)

    async def leave(self) -> None:
        """End the life in good order: at once, and for good."""
        async with self._turn:
            self.session.leave()
            await self._drive(lambda: False)

    async def close(self) -> None:
        """Leave, in `GOODBYE_SECONDS` at most, and close the connections. Can be called again.

        In a forked child nothing happens: the life and the connections are its parent's.
        """
        if not self._home.here:
            return
        try:
            if self._channel is not None and self.session.state is not State.ENDED:
                with contextlib.suppress(TimeoutError, ServerLost, SettingError, WireError):
                    async with asyncio.timeout(GOODBYE_SECONDS):
                        await self.leave()
        finally:
            heartbeat, self._heartbeat = self._heartbeat, None
            if heartbeat is not None:
                heartbeat.cancel()
                await asyncio.wait([heartbeat])
            channel, self._channel = self._channel, None
            if channel is not None:
                await channel.close()

    # The iterations.

    async def offer(
        self,
        specs: Sequence[TensorSpec],
        values: Values,
        *,
        whole: bool = False,
        aliases: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Offer initial values, where the server lacks any, now and after it has lost its state.

        `values(layout)` returns the buffers of a body for some of `specs`; it is called for the wanted ones.
        `whole`: these are all keys of the group, and a server that has others refuses with `schema-conflict`.
        `aliases`: further names of tied tensors, under which a file of initial values may have them.
        """
        async with self._turn:
            await self._settle()
            self._values = values
            self.session.offer(specs, whole=whole, aliases=aliases)
            await self._drive(self._has_joined)

    async def withdraw(self) -> None:
        """Offer nothing any more: what was offered is not to be trained after all."""
        async with self._turn:
            self.session.offer(())
            self._values = None

    async def pull(self) -> Pulled | None:
        """The parameters of this iteration, when the policy allows; None when the run is complete."""
        async with self._turn:
            await self._settle()
            self.session.pull()
            return await self._until_granted()

    async def push(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors,
        metrics: Mapping[str, float] | None = None,
        times: StepTimes | None = None,
    ) -> Outcome:
        """Push the update of this iteration, and return what became of it.

        `samples`: its weight. `times`: of the iteration before, for the server's history. The tensors' buffers must
        not change before this, or after a cancellation a later call, has returned.
        """
        async with self._turn:
            await self._take(kind, samples, tensors, metrics, times, pull=False)
            return await self._settled()

    async def pushpull(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors,
        metrics: Mapping[str, float] | None = None,
        times: StepTimes | None = None,
    ) -> tuple[Outcome, Pulled | None]:
        """`push` and `pull` in one request, where the policy answers in time, and in several where it does not."""
        async with self._turn:
            await self._take(kind, samples, tensors, metrics, times, pull=True)
            return await self._settled_and_granted()

    async def skip(self, times: StepTimes | None = None) -> tuple[Outcome, Pulled | None]:
        """The iteration has no update: on to the next."""
        async with self._turn:
            await self._take(UpdateKind.SKIP, 0, None, None, times, pull=True)
            return await self._settled_and_granted()

    async def settle(self) -> Outcome | None:
        """See the update in hand to its end, where a cancelled call has left one; the buffers are free then."""
        async with self._turn:
            await self._settle()
            return self.session.outcome

    async def idle(self) -> None:
        """Return when no call is under way, not even one that is being cancelled."""
        async with self._turn:
            pass

    # Beside the iterations.

    async def barrier(self, name: str, parties: int = 1) -> None:
        """Wait until all that are live have come to this barrier as often, and at least `parties` have."""
        name, parties = arguments.name("barrier", name), arguments.parties(parties)
        async with self._turn:
            await self._settle()
            session = self.session
            backoff = Backoff(random.Random())
            while True:
                await self._drive(self._has_joined)
                if session.ending is not None or session.life is None:
                    return
                request = Barrier(session.life, name, session.barriers.get(name, 0), parties, session.wait_seconds)
                await asyncio.sleep(backoff.delay_seconds)
                answer = await self._attempt(request, backoff.failed)
                match answer and answer.reply:
                    case Passed():
                        session.barriers[name] = request.generation + 1
                        return
                    case NotYet():
                        backoff.succeeded()
                    case Refused(error) if REACTIONS[error.code] is Reaction.AGAIN:
                        assert answer is not None
                        backoff.failed(answer.retry_after_seconds)
                    case Refused(error):
                        session.refused(request.life, error)

    async def status(self) -> dict[str, Any]:
        """The server's whole state: who waits, why, and for whom."""
        async with asyncio.timeout(self._silence_seconds):
            document: dict[str, Any] = await self._connected().read_json(routes.STATUS, {})
            return document

    # How it is done.

    def _has_joined(self) -> bool:
        return self.session.state not in (State.JOINING, State.OFFERING)

    async def _take(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors | None,
        metrics: Mapping[str, float] | None,
        times: StepTimes | None,
        *,
        pull: bool,
    ) -> None:
        """Take the update in hand: checked, with its body, and ready to be sent; or raise, and nothing has happened."""
        if kind is not UpdateKind.SKIP:
            samples, metrics = arguments.samples(samples), arguments.metrics(metrics)
        if tensors is not None:
            self._check(tensors)
        await self._settle()
        keys, values = (tuple(tensors.layout.places), tensors.values) if tensors else ((), ())
        # The body comes first: whatever ends this in between, there is never an update in hand without it.
        self._tensors = tensors
        self.session.computed(kind, samples, keys, metrics, values=values, pull=pull, times=times)

    def _check(self, tensors: Tensors) -> None:
        """Whether this can be encoded; the table of a layout is looked at once. Raises `ValueError`."""
        if tensors.layout is not self._fits or tensors.values:
            # The names of values travel twice: in the table and in the message.
            encode({"values": list(tensors.values)}, tensors.layout, tensors.buffers)
            self._fits = tensors.layout
        elif frame_length(tensors.buffers) != tensors.layout.nbytes:
            encode({}, tensors.layout, tensors.buffers)

    def _too_large(self, layout: Layout, what: str) -> BodyTooLarge | None:
        """What the server would say, so that nothing need be sent in vain."""
        limit = self.session.limits.max_body_bytes
        if layout.nbytes <= limit:
            return None
        return BodyTooLarge(
            f"the tensors of {what} have {layout.nbytes} bytes, the server takes at most {limit};"
            f" start it with --max-body {layout.nbytes} or more"
        )

    async def _settle(self) -> None:
        in_hand = self.session.in_hand
        await self._drive(lambda: not self.session.in_hand)
        self._tensors = None
        outcome = self.session.outcome
        if in_hand and outcome is not None and outcome.disposition is Disposition.LATE:
            self._late += 1
            # The first, and then seldom: a worker that is always slow is late in every round.
            if self._late.bit_count() == 1:
                detail = f"the update of iteration {outcome.clock} is dropped: its round had its quorum and closed"
                log.warning("late", rank=self.session.rank, late=self._late, detail=detail)
        if in_hand and outcome is not None and self._refused.ended(outcome):
            log.warning(
                "updates are refused: a NaN or an infinity in a gradient",
                rank=self.session.rank,
                iteration=outcome.clock,
                tensor=outcome.tensor,
                in_a_row=self._refused.count,
                detail="they became skips, and the model stays as it is; look at the loss, or lower the learning rate",
            )

    async def _settled(self) -> Outcome:
        await self._settle()
        outcome = self.session.outcome
        assert outcome is not None
        return outcome

    async def _settled_and_granted(self) -> tuple[Outcome, Pulled | None]:
        await self._settled()
        pulled = await self._until_granted()
        # The next grant may say more of an update that was held: that its step failed, or its round made none.
        outcome = self.session.outcome
        assert outcome is not None
        if outcome.reason in (Reason.STEP_FAILED, Reason.TOO_FEW_UPDATES):
            self._failed_steps += 1
            # The first, and then seldom: the server may fail at every step.
            if self._failed_steps.bit_count() == 1:
                what = "step failed" if outcome.reason is Reason.STEP_FAILED else "too few updates for a step"
                detail = f"the update of iteration {outcome.clock} is in no version; the server's log says why"
                log.warning(what, rank=self.session.rank, failed=self._failed_steps, detail=detail)
        return outcome, pulled

    async def _until_granted(self) -> Pulled | None:
        session = self.session
        await self._drive(lambda: session.state is State.COMPUTING)
        if session.grant is None:
            return None
        assert self._receiving.frame is not None
        return Pulled(session.grant, self._receiving.frame)

    async def _drive(self, reached: Callable[[], bool]) -> None:
        """Send what the session asks for until something has come true, or the session has ended."""
        session = self.session
        while not reached() and (request := session.ask()):
            await self._sleep(session.delay_seconds)
            tensors, refusal = None, None
            if isinstance(request, Push) and request.kind is not UpdateKind.SKIP:
                tensors = self._tensors
                assert tensors is not None
                refusal = self._too_large(tensors.layout, "this update")
            elif isinstance(request, Offer):
                layout = Layout.of(request.specs)
                refusal = self._too_large(layout, "this model")
                if refusal is None and not request.ask:
                    assert self._values is not None
                    tensors = Tensors(layout, self._values(layout))
            if refusal is not None:
                session.answered(request, Refused(refusal))
                continue
            answer = await self._attempt(request, session.lost, tensors)
            if answer is not None:
                self._keep(answer)
                session.answered(request, answer.reply, answer.retry_after_seconds)
                if self._heartbeat is None and session.life is not None:
                    self._heartbeat = asyncio.create_task(beat(session, self._connected()))
        if session.ending is Ending.FENCED and session.error is not None:
            raise session.error

    async def _attempt(self, request: Sent, lost: Callable[[], None], tensors: Tensors | None = None) -> Answer | None:
        """One exchange; None when it was lost. Raises `ServerLost` when that has gone on for too long."""
        try:
            answer = await self._connected().send(
                request,
                tensors,
                max_body_bytes=self._max_body_bytes or self.session.limits.max_body_bytes,
                allocate=self._receiving.allocate,
            )
        except Lost as error:
            self.sent_again += 1
            lost()
            self._patience.failed(error)
            return None
        self.traffic.add(answer.traffic)
        match answer.reply:
            case Refused(refusal) if REACTIONS[refusal.code] is Reaction.AGAIN:
                self.sent_again += 1
                self._patience.failed(refusal)
            case _:
                self._patience.answered()
        return answer

    def _keep(self, answer: Answer) -> None:
        reply = answer.reply
        pulled: Reply = reply.pulled if isinstance(reply, PushPulled) else reply
        if isinstance(reply, Joined):
            self._tell_of_another_epoch(reply)
        if isinstance(pulled, NotYet):
            self._tell_of_waiting(pulled)
            self.waiting = pulled
        elif isinstance(pulled, Granted):
            self.waiting = None
            if answer.frame is not None and not pulled.unchanged:
                self._receiving.keep(answer.frame)

    def _tell_of_another_epoch(self, joined: Joined) -> None:
        """The server is not the one that this worker knew: whose model goes on is nothing to guess at."""
        session, group = self.session, joined.groups.get(self.session.group)
        if session.life is None or session.life.epoch == joined.epoch or group is None:
            return
        whose = "the server's" if group.specs else f"this worker's, of iteration {session.clock}: the server has none"
        log.warning(
            "server has begun anew",
            server=self.url,
            rank=session.rank,
            epoch=joined.epoch,
            detail=f"the model that goes on is {whose}",
        )

    def _tell_of_waiting(self, why: NotYet) -> None:
        """When a wait was put off once, when its reason changes, and again while it goes on for long."""
        now = time.monotonic()
        if self.waiting is None or self.waiting.reason is not why.reason or now >= self._tell_again_at:
            self._tell_again_at = now + TELL_AGAIN_SECONDS
            names = ",".join(why.waiting_for) or None
            log.info("waiting", rank=self.session.rank, reason=str(why.reason), detail=why.detail, waiting_for=names)

    async def _sleep(self, seconds: float) -> None:
        if seconds:
            began = time.perf_counter()
            await asyncio.sleep(seconds)
            self.traffic.wait_seconds += time.perf_counter() - began

    def _connected(self) -> Channel:
        self._home.check()
        if self._channel is None:
            self._channel = self._open()
        return self._channel
