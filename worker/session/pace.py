"""When the next request of a conversation may be sent. Pure.

The one rule: nothing that goes round becomes a busy loop, be it a lost request, a refusal, or a wait that was
not parked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.worker.session.backoff import BASE_SECONDS, Backoff

if TYPE_CHECKING:
    from random import Random


class Pace:
    """`delay_seconds` is how long to wait before the next request."""

    __slots__ = ("_circle", "_requests")

    def __init__(self, random: Random) -> None:
        self._requests = Backoff(random)
        # Lives that were begun and led to no grant and no disposition, in a row: a circle of refusals slows down.
        self._circle = Backoff(random)

    @property
    def delay_seconds(self) -> float:
        return self._requests.delay_seconds

    @property
    def failures(self) -> int:
        """In a row."""
        return self._requests.failures

    def failed(self, retry_after_seconds: float | None) -> None:
        self._requests.failed(retry_after_seconds)

    def answered(self) -> None:
        """The server is there: what an outage has cost must not slow down the requests that follow it."""
        self._requests.succeeded()

    def got_on(self) -> None:
        """There is a grant, or a disposition."""
        self._circle.succeeded()

    def must_rejoin(self) -> None:
        # Joining is not what ends a circle of refusals.
        self._circle.failed()
        self._requests.succeeded(self._circle.delay_seconds)

    def not_yet(self, retry_after_seconds: float | None, *, parked: bool) -> None:
        """What was parked is asked again at once, what was not a little later."""
        self._requests.succeeded(0.0 if parked else retry_after_seconds or BASE_SECONDS)
