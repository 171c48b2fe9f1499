"""How much each may ask for in a second: requests, and bytes of bodies, both ways.

The one rule: what has been let in is paid for afterwards, however large it is, and whoever is in debt waits. (A token
bucket, as in RFC 2697, that may go below empty: nobody has to say beforehand how large a body is.)
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# What has not been used may be used later, for so long: a checkpoint is pulled at once, and then nothing for minutes.
BURST_SECONDS: Final = 10.0

# Heartbeats that are taken of each in a second, where the quota is smaller. Under one token there may be many workers
# with three in a lease each, and the cost of so many is a fraction of a core.
HEARTBEATS_PER_SECOND: Final = 1000.0

# So many are remembered; who was silent for longest goes first, and begins anew. Names of tokens are fewer, and under
# one of these somebody may give itself many ranks: its token pays for all of them.
MOST: Final = 4096


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


class Quota:
    """So much a second for each name; None: as much as it likes. `now`: seconds of any steady clock."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_seconds(self, name: str, now: float) -> float:
        """How long this one has to wait; 0: it may go on."""
        if self._per_second is None or name not in self._buckets:
            return 0.0
        debt = -self._bucket(name, now, self._per_second).level
        return debt / self._per_second if debt > 0 else 0.0

    def pay(self, name: str, amount: float, now: float) -> None:
        """It has used so much."""
        if self._per_second is None:
            return
        self._bucket(name, now, self._per_second).level -= amount
        self._buckets.move_to_end(name)
        while len(self._buckets) > MOST:
            self._buckets.popitem(last=False)

    def _bucket(self, name: str, now: float, per_second: float) -> _Bucket:
        most = per_second * BURST_SECONDS
        bucket = self._buckets.setdefault(name, _Bucket(most, now))
        bucket.level = min(bucket.level + (now - bucket.at) * per_second, most)
        bucket.at = now
        return bucket


class Quotas:
    """`clock`: monotonic. A heartbeat is a small thing, and has a quota of its own: whoever asks for too much of the
    rest shall wait, and not be taken for dead.
    """

    def __init__(
        self, clock: Callable[[], float], requests_per_second: float | None, bytes_per_second: float | None
    ) -> None:
        self._clock = clock
        self._requests = Quota(requests_per_second)
        limited = requests_per_second is not None
        self._heartbeats = Quota(max(requests_per_second or 0.0, HEARTBEATS_PER_SECOND) if limited else None)
        self._bytes = Quota(bytes_per_second)

    def ask(self, name: str, *, heartbeat: bool) -> float:
        """A request of this one: how long it has to wait before it asks again; 0: it is let in, and counted."""
        now = self._clock()
        requests = self._heartbeats if heartbeat else self._requests
        wait = requests.wait_seconds(name, now)
        if not heartbeat:
            wait = max(wait, self._bytes.wait_seconds(name, now))
        if wait == 0:
            requests.pay(name, 1, now)
        return wait

    def carried(self, name: str, size_bytes: int) -> None:
        """So many bytes went to this one, or came from it."""
        self._bytes.pay(name, size_bytes, self._clock())
