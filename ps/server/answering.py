"""What is done with a request, whatever it came over: looked at, and put to the machine.

A transport reads a message, asks this, and writes what comes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.offers import Offer
from leeway.protocol.pushes import Push
from leeway.protocol.tuning import SetOptimizer
from leeway.ps.server.asking import Outcome

if TYPE_CHECKING:
    from leeway.protocol.frames import Frame
    from leeway.protocol.messages import Request
    from leeway.ps.server.runtime import Runtime


async def answer(runtime: Runtime, message: Request, frame: Frame | None = None) -> Outcome:
    """The reply, or a `WireError` for what is refused before the machine sees it."""
    match message:
        case Push():
            assert frame is not None, "an update is a frame"
            return await runtime.pushing.push(message, frame)
        case Offer():
            runtime.offering.compare_twins(message)
        case SetOptimizer(group, changes):
            return Outcome(await runtime.tuning.set_optimizer(group, changes))
    return await runtime.ask(message, frame)
