"""Where a part of a training session stands between two calls.

The one rule: it is replaced in one assignment. An interrupt comes between any two, and a step counts altogether or not
at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from leeway.protocol.times import StepTimes

if TYPE_CHECKING:
    from leeway.protocol.pulls import Granted
    from leeway.worker.session.states import Outcome


class Begun(Enum):
    """A call that has begun and was not seen to its end. The module may hold parts of two versions then."""

    STEP = auto()
    PULL = auto()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a part stands between two calls. In one piece: an interrupt comes between any two assignments, and a
    step counts here altogether or not at all.

    `grant`: what the module holds, unless `begun`.
    """

    grant: Granted | None = None
    version: int = 0
    outcome: Outcome | None = None
    times: StepTimes = field(default_factory=StepTimes)
    begun: Begun | None = None
