"""Virtual time and a bad network: messages are lost, doubled, late, out of order, and cut off by partitions.

The one rule: nothing here knows what is in a message, and whatever happens follows from the seed.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from random import Random


class Clock:
    """What is to happen, in order of time. Virtual seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (self.now + seconds, self._count, action))

    def step(self) -> bool:
        """Let the next thing happen; False when there is nothing more."""
        if not self._queue:
            return False
        self.now, _, action = heapq.heappop(self._queue)
        action()
        return True


@dataclass
class Weather:
    """How bad the network is: chances per message, and the usual delay in seconds."""

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    delay_seconds: float = 0.02


class Network:
    def __init__(self, clock: Clock, random: Random, weather: Weather) -> None:
        self._clock = clock
        self._random = random
        self.weather = weather
        self.cut_off: dict[str, float] = {}

    def calm(self) -> None:
        self.weather = Weather(delay_seconds=self.weather.delay_seconds)
        self.cut_off.clear()

    def is_cut_off(self, rank: str) -> bool:
        return self.cut_off.get(rank, 0.0) > self._clock.now

    def carry(self, rank: str, deliver: Callable[[], None], *, doubles: bool = True) -> None:
        """Carry a message between this rank and the server: `deliver` is called never, once or twice."""
        if self.is_cut_off(rank) or self._random.random() < self.weather.lost:
            return
        self._deliver(rank, deliver)
        if doubles and self._random.random() < self.weather.doubled:
            self._deliver(rank, deliver)

    def _deliver(self, rank: str, deliver: Callable[[], None]) -> None:
        delay = self._random.expovariate(1.0 / self.weather.delay_seconds)
        if self._random.random() < self.weather.late:
            delay += self._random.uniform(0.0, 12.0)
        self._clock.after(delay, lambda: None if self.is_cut_off(rank) else deliver())
