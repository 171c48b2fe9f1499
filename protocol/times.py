"""Where the time of one iteration went, as the worker measured it.

The one rule: durations by the worker's own clock, never moments: two machines need not agree on what time it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.protocol import limits

if TYPE_CHECKING:
    from leeway.protocol.fields import Fields


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of iteration `clock`, one after the other; a push brings those of the iteration before.

    `compute_seconds`: from the loaded parameters until the update was ready; `push_seconds`: collecting and sending
    it; `wait_seconds`: the server's part, which is the policy's wait and the arithmetic, and back-off;
    `pull_seconds`: receiving the next parameters, and copying them into the module.
    `bubble_seconds`: while a stage of a pipeline computed, it waited so long for its neighbours; it is not in
    `compute_seconds`. Other workers have none, and do not send it.
    """

    clock: int = 0
    compute_seconds: float = 0.0
    push_seconds: float = 0.0
    wait_seconds: float = 0.0
    pull_seconds: float = 0.0
    bubble_seconds: float = 0.0

    @property
    def total_seconds(self) -> float:
        """Of the whole iteration."""
        return self.compute_seconds + self.bubble_seconds + self.push_seconds + self.wait_seconds + self.pull_seconds

    @classmethod
    def read(cls, fields: Fields) -> StepTimes:
        """Raises `MalformedRequest`: each is finite, 0 or more, and at most `MAX_STEP_SECONDS`."""
        most = limits.MAX_STEP_SECONDS
        of_a_stage = ("bubble",) if "bubble" in fields else ()
        return cls(
            fields.integer("clock"),
            *(fields.number(name, 0.0, most) for name in ("compute", "push", "wait", "pull", *of_a_stage)),
        )

    def to_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "clock": self.clock,
            "compute": self.compute_seconds,
            "push": self.push_seconds,
            "wait": self.wait_seconds,
            "pull": self.pull_seconds,
        }
        return fields | ({"bubble": self.bubble_seconds} if self.bubble_seconds else {})
