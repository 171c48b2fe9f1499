"""How long to wait after a failure: exponential, with full jitter. Pure: randomness comes from outside.

The one rule: a delay is drawn once, when the failure is told, and stays until the next failure or success.

Full jitter draws uniformly between 0 and min(cap, base x 2^failures). Of the usual forms it lets many clients
through to a server that has come back with the least work (M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

BASE_SECONDS = 0.1

# Well below the usual lease of some tens of seconds, so that a restarted server soon finds its workers again.
CAP_SECONDS = 5.0


class Backoff:
    """`failures` in a row, and the `delay_seconds` before the next attempt."""

    __slots__ = ("_random", "delay_seconds", "failures")

    def __init__(self, random: Random) -> None:
        self._random = random
        self.failures = 0
        self.delay_seconds = 0.0

    def failed(self, retry_after_seconds: float | None = None) -> None:
        """One more failure. The peer's wish (HTTP `Retry-After`) is kept to, and the jitter comes on top."""
        self.failures += 1
        # The exponent is bounded because a float's is.
        ceiling = min(CAP_SECONDS, BASE_SECONDS * 2.0 ** min(self.failures, 32))
        self.delay_seconds = (retry_after_seconds or 0.0) + self._random.uniform(0.0, ceiling)

    def succeeded(self, delay_seconds: float = 0.0) -> None:
        """The peer has answered; it may still want to be left alone for a while."""
        self.failures = 0
        self.delay_seconds = delay_seconds
