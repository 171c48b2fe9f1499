"""The calls of one group of a worker's: offer, pull, push, pushpull, skip, each with the body that it carries.

The one rule: the conversation decides and this carries out. It sends what `Conversation.ask` gives until what was
called for has come true, keeps the bodies, and waits out the back-off.

One call of a group at a time, others wait for it; calls of different groups are under way together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog

from leeway.errors import BodyTooLarge
from leeway.protocol import routes
from leeway.protocol.barriers import Passed
from leeway.protocol.frames import encode, frame_length
from leeway.protocol.membership import Join, Joined
from leeway.protocol.offers import Offer
from leeway.protocol.pulls import Granted, NotYet
from leeway.protocol.pushes import Disposition, Push, PushPulled, UpdateKind
from leeway.protocol.reasons import Reason
from leeway.protocol.refusals import Refused
from leeway.protocol.spans import Layout
from leeway.protocol.tuning import SetOptimizer
from leeway.transport.channel import Tensors
from leeway.transport.memory.aligned import allocate_aligned
from leeway.worker import arguments
from leeway.worker.receiving import Pulled, Receiving
from leeway.worker.session.states import State
from leeway.worker.skips import REFUSED, RefusedInARow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

    from leeway.protocol.decoder import Allocate
    from leeway.protocol.frames import Buffer
    from leeway.protocol.messages import Reply
    from leeway.protocol.tensors import TensorSpec
    from leeway.protocol.times import StepTimes
    from leeway.transport.channel import Answer, Channel
    from leeway.worker.link import Link
    from leeway.worker.session.conversation import Conversation
    from leeway.worker.session.course import Ask
    from leeway.worker.session.states import Outcome

    Values = Callable[[Layout], Sequence[Buffer]]

log = structlog.get_logger("worker.client")

# How often it is said that a wait goes on.
TELL_AGAIN_SECONDS = 60.0


class GroupClient:
    """One group, over the `link` that all groups of the worker share. Every call may be cancelled.

    What was sent may have been heard then; an update that was being pushed is still in hand, and the next call of this
    group first sees it to its end.
    """

    def __init__(self, conversation: Conversation, link: Link) -> None:
        self.conversation = conversation
        self.waiting: NotYet | None = None
        """Why the last parked request was sent away; None when the last one was answered."""
        self.turn = asyncio.Lock()

        # Held by whoever sees an update to its end.
        self._hand = asyncio.Lock()
        # The push under way that asks for a pull too: its end is when it is given up.
        self._attempt: asyncio.Timeout | None = None
        self._link = link
        self._receiving = Receiving(allocate_aligned)
        self._values: Values | None = None
        # Invariant: what the update in hand is made of, untouched until that has had its end.
        self._tensors: Tensors | None = None
        self._fits: Layout | None = None  # whose table was found to fit into a frame
        self._refused = RefusedInARow()
        self._times: Counter[str] = Counter()
        self._tell_again_at = 0.0

    def receive_into(self, allocate: Allocate) -> None:
        """Let `allocate(nbytes)` make the (at most two) buffers for received bodies, from now on."""
        arguments.function("allocate", allocate)
        self._receiving.new = allocate

    async def join(self) -> None:
        """Begin a life, unless there is one, and see the offer to its end."""
        async with self._call():
            await self.drive(self.has_joined)

    async def offer(
        self,
        specs: Sequence[TensorSpec],
        values: Values,
        *,
        whole: bool = False,
        aliases: Mapping[str, tuple[str, ...]] | None = None,
        own: Collection[str] | None = None,
        holds: Callable[[], str] = str,
    ) -> None:
        """Offer initial values, where the server lacks any, now and after it has lost its state.

        `values(layout)` returns the buffers of a body for some of `specs`; it is called for the wanted ones.
        `whole`: these are all keys of the group, and a server that has others refuses with `schema-conflict`.
        `aliases`: further names of tied tensors, under which a file of initial values may have them. `own`: of a stage,
        those of `specs` that it has; they alone are asked of `values`, and nothing is read before all are there.
        `holds()`: of a stage, which version's values those are, as text; empty for initial ones.
        """
        specs, aliases = arguments.specs(specs), arguments.aliases(aliases)
        Layout.of(specs)
        arguments.function("values", values)
        async with self._call():
            await self._settle()
            self._values = values
            self.conversation.offer(specs, whole=whole, aliases=aliases, own=own, holds=holds)
            await self.drive(self.has_joined)

    async def withdraw(self) -> None:
        """Offer nothing any more: what was offered is not to be trained after all."""
        async with self._call():
            self.conversation.offer(())
            self._values = None

    async def pull(self) -> Pulled | None:
        """The parameters of this iteration, when the policy allows; None when the run is complete."""
        async with self._call():
            await self._settle()
            self.conversation.pull()
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
        async with self._call():
            return await self._push(arguments.update_kind(kind, "kind"), samples, tensors, metrics, times, pull=False)

    async def pushpull(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors,
        metrics: Mapping[str, float] | None = None,
        times: StepTimes | None = None,
    ) -> tuple[Outcome, Pulled | None]:
        """`push` and `pull` in one request, where the policy answers in time, and in several where it does not."""
        async with self._call():
            await self._push(arguments.update_kind(kind, "kind"), samples, tensors, metrics, times, pull=True)
            return await self._granted_after()

    async def skip(self, times: StepTimes | None = None) -> tuple[Outcome, Pulled | None]:
        """The iteration has no update: on to the next."""
        async with self._call():
            await self._push(UpdateKind.SKIP, 0, None, None, times, pull=True)
            return await self._granted_after()

    async def settle(self) -> Outcome | None:
        """See the update in hand to its end, where a cancelled call has left one; the buffers are free then."""
        async with self._call():
            await self._settle()
            return self.conversation.outcome

    async def part(self) -> None:
        """See the update in hand to its end, in no turn, for a barrier: a pull behind it is not waited for."""
        if self.conversation.part() and self._attempt is not None:
            self._attempt.reschedule(asyncio.get_running_loop().time())
        await self._settle()

    async def begin_anew(self) -> None:
        """Ask for a life where that is wanted, in no turn: whoever has it asks with the same join."""
        await self.drive(lambda: self.conversation.state is not State.JOINING)

    async def optimizer(self) -> dict[str, Any]:
        """The settings of the group's optimizer, the steps it has made and the rate of the next one."""

        async def ask(channel: Channel) -> dict[str, Any]:
            document: dict[str, Any] = await channel.read_json(routes.OPTIMIZER, {"group": self.conversation.group})
            return document

        async with self._link.calls.under_way():
            return await self._link.wait_out(ask)

    async def set_optimizer(self, changes: Mapping[str, Any]) -> None:
        """Have the group's optimizer go by other settings. Raises `WireError` for those that cannot be."""
        request = SetOptimizer(self.conversation.group, changes)

        async def ask(channel: Channel) -> None:
            answer = await channel.send(request)
            self._link.traffic.add(answer.traffic)
            if isinstance(answer.reply, Refused):
                raise answer.reply.error

        async with self._link.calls.under_way():
            await self._link.wait_out(ask)

    # How it is done.

    @contextlib.asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """A call of this group, when it is its turn. Ends, also in the middle, when the client does."""
        async with self._link.calls.under_way(), self.turn:
            yield

    def has_joined(self) -> bool:
        return self.conversation.state not in (State.JOINING, State.OFFERING)

    async def _push(
        self,
        kind: UpdateKind,
        samples: int,
        tensors: Tensors | None,
        metrics: Mapping[str, float] | None,
        times: StepTimes | None,
        *,
        pull: bool,
    ) -> Outcome:
        """Check the update, take it in hand with its body, and see it to its end.

        What is wrong with it is raised before anything has happened.
        """
        times = arguments.times(times)
        if kind is not UpdateKind.SKIP:
            samples, metrics = arguments.samples(samples), arguments.metrics(metrics)
            self._check(tensors := arguments.tensors(tensors))
        keys, values = (tuple(tensors.layout.places), tensors.values) if tensors else ((), ())
        async with self._hand:
            await self._see_through()
            # The body comes first: whatever ends this in between, there is never an update in hand without it.
            self._tensors = tensors
            self.conversation.computed(kind, samples, keys, metrics, values=values, pull=pull, times=times)
            await self._see_through()
        outcome = self.conversation.outcome
        assert outcome is not None
        return outcome

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
        limit = self.conversation.shared.limits.max_body_bytes
        if layout.nbytes <= limit:
            return None
        return BodyTooLarge(
            f"the tensors of {what} have {layout.nbytes} bytes, the server takes at most {limit};"
            f" start it with --max-body {layout.nbytes} or more"
        )

    async def _settle(self) -> None:
        async with self._hand:
            await self._see_through()

    async def _see_through(self) -> None:
        in_hand = self.conversation.in_hand
        await self.drive(lambda: not self.conversation.in_hand)
        self._tensors = None
        outcome = self.conversation.outcome
        if in_hand and outcome is not None and outcome.disposition is Disposition.LATE:
            detail = f"the update of iteration {outcome.clock} is dropped: its round has closed without it"
            self._warn_seldom("late", "late", detail)
        if in_hand and outcome is not None and self._refused.ended(outcome):
            log.warning(
                f"updates are refused: {REFUSED[outcome.reason]}",
                rank=self.conversation.rank,
                iteration=outcome.clock,
                tensor=outcome.tensor,
                in_a_row=self._refused.count,
                detail="they became skips, and the model stays as it is; look at the loss, or lower the learning rate",
            )

    async def _granted_after(self) -> tuple[Outcome, Pulled | None]:
        """What became of the push before, and the next parameters."""
        pulled = await self._until_granted()
        # The next grant may say more of an update that was held: that its step failed, or its round made none.
        outcome = self.conversation.outcome
        assert outcome is not None
        if outcome.reason in (Reason.STEP_FAILED, Reason.TOO_FEW_UPDATES):
            what = "step failed" if outcome.reason is Reason.STEP_FAILED else "too few updates for a step"
            detail = f"the update of iteration {outcome.clock} is in no version; the server's log says why"
            self._warn_seldom(what, "failed", detail)
        return outcome, pulled

    def _warn_seldom(self, what: str, counted: str, detail: str) -> None:
        """At the first, second, fourth time and so on: it may be so in every round. `counted`: as what."""
        self._times[counted] += 1
        times = self._times[counted]
        if times.bit_count() == 1:
            log.warning(what, rank=self.conversation.rank, detail=detail, **{counted: times})

    async def _until_granted(self) -> Pulled | None:
        conversation = self.conversation
        await self.drive(lambda: conversation.state is State.COMPUTING)
        if conversation.grant is None:
            return None
        assert self._receiving.frame is not None
        return Pulled(conversation.grant, self._receiving.frame)

    async def drive(self, reached: Callable[[], bool]) -> None:
        """Send what the conversation asks for until something has come true, or that has ended."""
        conversation = self.conversation
        while not reached() and (request := conversation.ask()):
            await self._link.sleep(conversation.delay_seconds)
            # One join at a time, for all groups.
            async with self._link.joining if isinstance(request, Join) else contextlib.nullcontext():
                # Meanwhile another group may have learned of another life.
                if conversation.ask() is request:
                    await self._send(request)
        against_our_wish = conversation.ending is not None and conversation.ending.against_our_wish
        if against_our_wish and conversation.error is not None and conversation.state is State.ENDED:
            raise conversation.error

    async def _send(self, request: Ask) -> None:
        conversation = self.conversation
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
            conversation.answered(request, Refused(refusal))
            return
        answer = None
        async with self._until_parted(request):
            answer = await self._link.attempt(
                request, lambda: conversation.lost(request), tensors, allocate=self._receiving.allocate
            )
        # A body of a life that is over is not the one that the worker takes itself to hold.
        if answer is not None and conversation.ask() is request:
            self.keep(answer)
            conversation.answered(request, answer.reply, answer.retry_after_seconds)
            self._link.keep_alive()

    @contextlib.asynccontextmanager
    async def _until_parted(self, request: Ask) -> AsyncIterator[None]:
        """A push that asks for a pull too is given up when its end is wanted before that: see `part`."""
        if not isinstance(request, Push) or not request.pull:
            yield
            return
        self._attempt = attempt = asyncio.timeout(None)
        try:
            async with attempt:
                yield
        except TimeoutError:
            if not attempt.expired():
                raise
        finally:
            self._attempt = None

    def keep(self, answer: Answer) -> None:
        """What an answer brings beside what the conversation is told: a body, a reason to wait."""
        reply = answer.reply
        pulled: Reply = reply.pulled if isinstance(reply, PushPulled) else reply
        if isinstance(reply, Joined):
            self._link.tell_of_another_epoch(reply)
        if isinstance(pulled, NotYet):
            self._tell_of_waiting(pulled)
            self.waiting = pulled
        elif isinstance(pulled, Passed):
            self.waiting = None
        elif isinstance(pulled, Granted):
            self.waiting = None
            if answer.frame is not None and not pulled.unchanged:
                self._receiving.keep(answer.frame)

    def _tell_of_waiting(self, why: NotYet) -> None:
        """When a wait was put off once, when its reason changes, and again while it goes on for long."""
        now = time.monotonic()
        if self.waiting is None or self.waiting.reason is not why.reason or now >= self._tell_again_at:
            self._tell_again_at = now + TELL_AGAIN_SECONDS
            facts = {"waiting_for": ",".join(why.waiting_for)} if why.waiting_for else {}
            log.info("waiting", rank=self.conversation.rank, reason=str(why.reason), detail=why.detail, **facts)
