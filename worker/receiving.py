"""The memory of received parameters, and what a granted pull hands out.

The one rule: a body is received into the buffer that does not hold the version in use, so that neither a reply
that breaks off nor the next version damages what is being read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leeway.protocol.decoder import Allocate
    from leeway.protocol.frames import Frame
    from leeway.protocol.pulls import Granted


@dataclass(frozen=True, slots=True)
class Pulled:
    """A granted pull. `frame` has the parameters of `grant.version`, received now or held already.

    Its memory is used again for the next changed version but one: it stays readable beside its successor.
    """

    grant: Granted
    frame: Frame


class Receiving:
    """Two buffers in turn. `allocate(nbytes)` makes them, when first needed or when the size changes."""

    __slots__ = ("_spare", "_used", "frame", "new")

    def __init__(self, allocate: Allocate) -> None:
        self.frame: Frame | None = None
        self.new = allocate
        self._used = memoryview(b"")
        self._spare = memoryview(b"")

    def allocate(self, nbytes: int) -> memoryview:
        """The buffer to receive into. It is in use only when `keep` says so."""
        if self._spare.nbytes != nbytes:
            self._spare = self.new(nbytes)
        return self._spare

    def keep(self, frame: Frame) -> None:
        """The frame received last is the version in use from now on."""
        self.frame = frame
        if frame.body.nbytes:
            self._used, self._spare = self._spare, self._used
