"""Which call each stage stands at: an iteration is committed by all of them or by none, but one may be through with an
evaluation and another not when a life ends.

The one rule: pure. From their notes all stages of a life come to the same first call; who is not there yet gives its
evaluations up until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

# How many iterations were committed, and how many evaluations behind those are over.
Position: TypeAlias = "tuple[int, int]"

# In place of the second: what follows is an iteration.
STEP = 1 << 32


def first(stages: Iterable[Position | None], committed: int) -> Position:
    """Where the stage that is furthest stands, with so many iterations committed. Whoever stood before or behind that
    (it was not told yet, or the server has gone back), or is new (None), stands at the first call.
    """
    return committed, max((at[1] for at in stages if at is not None and at[0] == committed), default=0)
