"""Where the time of a step went, from the moments that its caller took and what its client counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol.times import StepTimes

if TYPE_CHECKING:
    from leeway.transport.channel import Traffic


def step_times(
    clock: int,
    *,
    loaded: float,
    computed: float,
    collected: float,
    received: float,
    before: Traffic,
    after: Traffic,
    bubble_seconds: float = 0.0,
) -> StepTimes:
    """`loaded`, `computed`, `collected`, `received`: when the parameters were in the module, the gradients were there,
    the update was ready to be sent, and the reply had come, in seconds of one clock. `before`, `after`: the client's
    sums when it was sent, and when the reply had come. `bubble_seconds`: in which a stage waited for its neighbours.
    Loading what was pulled is still to come, and counts as pulling.
    """
    sending = after.send_seconds - before.send_seconds
    receiving = after.receive_seconds - before.receive_seconds
    return StepTimes(
        clock,
        compute_seconds=max(0.0, computed - loaded - bubble_seconds),
        push_seconds=collected - computed + sending,
        wait_seconds=max(0.0, received - collected - sending - receiving),
        pull_seconds=receiving,
        bubble_seconds=bubble_seconds,
    )
