"""What is done with a request, whatever it came over: looked at, and put to the machine.

The one rule: a push is judged before its tensors are looked at, so that a client of an old epoch is told so instead of
being told that its tensors are unknown. A transport reads a message, asks this, and writes what comes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.requests import Offer, Push, SetOptimizer, UpdateKind
from leeway.ps.core.deduplication import Fresh
from leeway.ps.server.runtime import Outcome

if TYPE_CHECKING:
    from leeway.protocol.frames import Frame
    from leeway.protocol.requests import Request
    from leeway.ps.server.runtime import Runtime


async def answer(runtime: Runtime, message: Request, frame: Frame | None = None) -> Outcome:
    """The reply, or a `WireError` for what is refused before the machine sees it."""
    match message:
        case Push():
            assert frame is not None, "an update is a frame"
            if isinstance(runtime.judge(message), Fresh) and message.kind is not UpdateKind.SKIP:
                await runtime.inspect(message, frame)
        case Offer():
            runtime.compare_twins(message)
        case SetOptimizer(group, changes):
            return Outcome(await runtime.set_optimizer(group, changes))
    return await runtime.ask(message, frame)
