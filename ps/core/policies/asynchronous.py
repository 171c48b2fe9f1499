"""`async` (ASP): a pull is answered at once, a push is effective on arrival. No bound on staleness whatever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from leeway.protocol.reasons import Reason
from leeway.ps.core.decisions import Answer

if TYPE_CHECKING:
    from leeway.ps.core.decisions import Decision
    from leeway.ps.core.policies.policy import View


@dataclass(frozen=True, slots=True)
class Asynchronous:
    mode: ClassVar[str] = "async"
    staleness: ClassVar[int | None] = None
    gathers: ClassVar[bool] = False

    def pull(self, view: View, rank: str) -> Decision:
        return Answer(Reason.GRANTED)
