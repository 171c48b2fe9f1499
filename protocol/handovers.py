"""What the stages of a pipeline hand to one another, and in which direction."""

from __future__ import annotations

from enum import StrEnum


class Direction(StrEnum):
    FORWARD = "forward"  # activations, stage k -> k+1
    BACKWARD = "backward"  # errors, stage k+1 -> k
    SHARE = "share"  # of a tied key's gradient, to the stage that owns it
