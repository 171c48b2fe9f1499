"""What happens to the machine. A request's last byte has come in; time has passed; the arithmetic is done.

Events and the messages in them are frozen; `__str__` is made to be read in golden files and histories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leeway.protocol.messages import Request


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, complete. `request` numbers it for ever: replies, and the body of a push, go by this number.

    `norm`: of the update that came with it, where its group asks for that.
    """

    request: int
    message: Request
    norm: float | None = None

    def __str__(self) -> str:
        return str(self.message)


@dataclass(frozen=True, slots=True)
class Gone:
    """The asker of a parked request is no longer there."""

    request: int

    def __str__(self) -> str:
        return f"gone {self.request}"


@dataclass(frozen=True, slots=True)
class Published:
    """The arithmetic for this version is done, readers can have it. In the order of the `Apply` effects."""

    group: str
    number: int

    def __str__(self) -> str:
        return f"published {self.group} v{self.number}"


@dataclass(frozen=True, slots=True)
class Failed:
    """The arithmetic for this version raised: it is published all the same, with keys and values of the one before it.

    In the order of the `Apply` effects, in place of `Published`.
    """

    group: str
    number: int

    def __str__(self) -> str:
        return f"failed {self.group} v{self.number}"


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: leases and waits may have run out."""

    def __str__(self) -> str:
        return "tick"


@dataclass(frozen=True, slots=True)
class Paused:
    """The server did not run for the last `seconds`: that time counts against nobody, every deadline moves by it.

    It judges nobody. It comes before whatever the server takes first when it runs again.
    """

    seconds: float

    def __str__(self) -> str:
        return f"paused {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Stop:
    """The server is told to stop: every parked request is answered, none is taken any more."""

    def __str__(self) -> str:
        return "stop"


Event = Asked | Gone | Published | Failed | Tick | Paused | Stop
