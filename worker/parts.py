"""The parts of a session, and which of them is meant: by name, the only one, or all that go on.

The one rule: whatever is meant is there; a name that is not, and a question that has one answer for each of several
parts, are a `ValueError` that says what to write.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog

from leeway.protocol.fields import shown
from leeway.worker.session.states import Ending
from leeway.worker.warn import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from leeway.worker.part import Part

log = structlog.get_logger("worker")

# After so many steps of one part it is told that another one has had none.
STEPS_TO_TELL = 10


class Parts:
    """Of one session with one module: its group alone."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.by_name: Mapping[str, Part] = MappingProxyType(dict(parts))
        # Of the parts that are complete while others go on, those of which it has been said.
        self._told: set[str] = set()
        self._steps: Counter[str] = Counter()
        self._warned = False
        # Those that were stepped when all were complete.
        self._stepped_after: set[str] = set()
        # Those that a step of all has still to step: where it was interrupted, the next one goes on with them.
        self._left: list[str] = []

    @property
    def all(self) -> list[Part]:
        return list(self.by_name.values())

    @property
    def several(self) -> bool:
        return len(self.by_name) > 1

    @property
    def attached(self) -> bool:
        return any(part.attached for part in self.all)

    @property
    def finished(self) -> bool:
        return all(part.finished for part in self.all)

    @property
    def going(self) -> Part:
        """The first that goes on, or the first."""
        return next((part for part in self.all if not part.finished), self.all[0])

    def only(self, what: str) -> Part:
        """Raises `ValueError` when there are several."""
        if self.several:
            names = ", ".join(self.by_name)
            raise ValueError(
                f"this session has several parts ({names}), each with its own; read session.parts[NAME].{what}"
            )
        return self.going

    def named(self, name: str | None, what: str) -> Part:
        """The part of this name; None: the only one. Raises `ValueError`."""
        if name is None:
            if self.several:
                raise ValueError(
                    f"this session has several parts; say which: {what}(part={next(iter(self.by_name))!r})"
                )
            return self.going
        if not isinstance(name, str):
            raise ValueError(f"part is {shown(name)}, it must be a name; a number of samples is given as samples=")
        if name not in self.by_name:
            raise ValueError(f"there is no part {name!r}; this session has {', '.join(self.by_name)}")
        return self.by_name[name]

    def chosen(self, name: str | None) -> list[Part]:
        """The part of this name; None: all that go on, those first that may have to wait."""
        if name is not None:
            return [self.named(name, "step")]
        going = [part for part in self.all if not part.finished or part.interrupted]
        return waiting_first(going) or [self.going]

    def to_step(self, name: str | None) -> list[Part]:
        """As `chosen`, but where a step of all was interrupted: what is left of it."""
        return [self.by_name[left] for left in self._left] if name is None and self._left else self.chosen(name)

    def begin(self, parts: Iterable[Part]) -> None:
        """A step of all these begins."""
        self._left = [part.name for part in parts]

    def done(self, part: Part) -> None:
        """Its own of that step has been seen to its end."""
        self._left = [name for name in self._left if name != part.name]

    def is_over(self, part: Part) -> bool:
        """Whether this part is complete, so that its steps do nothing: as long as others go on, and once more when all
        are complete, for a loop that asks for the end after its last part. Said once.
        """
        if not part.finished or part.interrupted:
            return False
        if self.finished:
            once_more = self.several and part.ending is Ending.FINISHED and part.name not in self._stepped_after
            self._stepped_after.add(part.name)
            return once_more
        if part.name not in self._told:
            self._told.add(part.name)
            going = ", ".join(f"{other.name} (at {other.clock})" for other in self.all if not other.finished)
            log.info(
                "a part is complete, its steps are pushed no more",
                part=part.name,
                detail=f"it is at {part.clock}, and {going} go on; [group.{part.name}] until = 0 keeps it with them",
            )
        return True

    def count(self, part: Part) -> None:
        """It has been stepped. Warn, once, of parts that never are where this one is over and over: what the script
        does to them stays with it, and others may wait for it there."""
        self._steps[part.name] += 1
        if self._steps[part.name] != STEPS_TO_TELL:
            return
        left = [other.name for other in self.all if other.outcome is None and not other.finished]
        if left and not self._warned:
            self._warned = True
            warn(
                f"{part.name} has been stepped {STEPS_TO_TELL} times, and {', '.join(left)} never: what this script"
                " does there stays here. Step each part, or wrap the optimizer that has its parameters; what is trained"
                " later may be ignored here, and what never is may be left out of attach"
            )

    def where(self, state: Callable[[Part], str]) -> str:
        """Each in a few words."""
        return ", ".join(
            f"{f'{part.name} ' if self.several else ''}iteration {part.clock}: {state(part)}" for part in self.all
        )


def waiting_first(parts: Iterable[Part]) -> list[Part]:
    """Those first whose pull may have to wait, so that the parameters of the others are fresh when they are read."""
    return sorted(parts, key=lambda part: part.policy == "async")
