"""How long a server may be away: when it is said, and when it is enough.

The one rule: being away begins with the first failure and ends with the first reply; it is said when it begins, once
more with what to check when it goes on, and when it is over.
"""

from __future__ import annotations

import time

import structlog

from leeway.errors import ServerLost

log = structlog.get_logger("worker.client")

# A restart takes a few seconds. Whoever waits for longer is told once more, and what to look at.
HINT_SECONDS = 15.0

WHAT_TO_CHECK = (
    "is the address right, does ps-serve run there, and has the run ended already (ps-serve ends by itself when"
    " --until is reached)?"
)


class Patience:
    """With the server at `url`, for `seconds`."""

    __slots__ = ("_away_since", "_hinted", "_met", "_rank", "_slowed", "_url", "seconds")

    def __init__(self, url: str, rank: str, seconds: float) -> None:
        self.seconds = seconds
        self._url = url
        self._rank = rank
        self._away_since: float | None = None
        self._met = False
        self._hinted = False
        self._slowed = False

    def failed(self, error: Exception) -> None:
        """The server was not reached, or cannot answer yet. Raises `ServerLost` when it is enough."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            if self._met:
                log.warning("server is away", server=self._url, rank=self._rank, detail=str(error))
            else:
                log.info("waiting for the server", server=self._url, rank=self._rank, detail=str(error))
        away_seconds = now - self._away_since
        if away_seconds > self.seconds:
            words = f"{self._url} has been away for more than {self.seconds:g} s: {error}; {WHAT_TO_CHECK}"
            raise ServerLost(words) from error
        if away_seconds > HINT_SECONDS and not self._hinted:
            self._hinted = True
            log.warning(
                "server is still away",
                server=self._url,
                rank=self._rank,
                away_seconds=round(away_seconds),
                gives_up_after_seconds=self.seconds,
                detail=str(error),
                check=WHAT_TO_CHECK,
            )

    def asked_to_wait(self, error: Exception) -> None:
        """The server is there, and lets this worker wait for having asked for too much: told once."""
        self.answered()
        if not self._slowed:
            self._slowed = True
            log.warning("the server slows this worker down", server=self._url, rank=self._rank, detail=str(error))

    def answered(self) -> None:
        if self._away_since is not None:
            self._away_since, self._hinted = None, False
            log.info("server is back" if self._met else "server is there", server=self._url, rank=self._rank)
        self._met = True
