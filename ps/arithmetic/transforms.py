"""The stages before and behind the aggregation rule.

The guard against NaN and infinity is none of them: it looks at an update when it comes in, so that its sender can be
told (`guards`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.ps.arithmetic.clipping import clip, norm
from leeway.ps.arithmetic.stages import Stage

if TYPE_CHECKING:
    from leeway.ps.arithmetic.stages import State
    from leeway.ps.arithmetic.updates import Updates


@dataclass(frozen=True, slots=True)
class Scale(Stage):
    """Before the rule: every update times a factor."""

    name: ClassVar[str] = "scale"

    factor: float

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        return updates.scaled([self.factor] * len(updates.contributions)), state


@dataclass(frozen=True, slots=True)
class Clip(Stage):
    """Behind the rule: the gradient, no longer than this (see `clipping`)."""

    name: ClassVar[str] = "clip"

    max_norm: float

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        gradient, before = clip(updates.gradient, self.max_norm, updates.scratch)
        return updates.with_gradient(gradient, before), state


@dataclass(frozen=True, slots=True)
class Measure(Stage):
    """Behind the rule: the gradient's norm, where no clipping needs it."""

    name: ClassVar[str] = "measure"

    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        return updates.with_gradient(updates.gradient, norm(updates.gradient)), state
