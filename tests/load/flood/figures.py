"""What the flood found: one record a cell of the grid, as plain data.

The one rule: a figure is what was measured in one window of one cell, in its own unit. Whatever can be computed from
others (a rate, a ratio) is computed when it is asked for, so it cannot disagree with them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KIB, MIB, GIB = 2**10, 2**20, 2**30


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes of bodies and updates of a cell from its beginning to its end, as each side has counted them."""

    updates: int
    clients_sent_bytes: int
    clients_received_bytes: int
    server_received_bytes: int
    server_sent_bytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """One window of a cell. Latencies are of the push-pulls answered in it, by the nearest rank.

    `moved_bytes`: of bodies, both ways. `resident_bytes`: the most that the server's process held, None where the
    system does not tell. `server_cores`, `clients_cores`: processors kept busy on average. `loop_lag_p99_seconds`: None
    when the server has counted nothing, infinite beyond its last bucket.
    """

    seconds: float
    updates: int
    moved_bytes: int
    p50_seconds: float
    p99_seconds: float
    longest_seconds: float
    resident_bytes: int | None
    loop_lag_mean_seconds: float | None
    loop_lag_p99_seconds: float | None
    server_cores: float
    clients_cores: float
    counted: Counted

    @property
    def updates_per_second(self) -> float:
        return self.updates / self.seconds

    @property
    def bytes_per_second(self) -> float:
        return self.moved_bytes / self.seconds

    @property
    def cpu_seconds_per_gib(self) -> float:
        """Of the server, for every GiB of bodies that came in or went out."""
        return self.server_cores / (self.bytes_per_second / GIB) if self.moved_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """So many workers with a model of that size. Without `load` it `failed`, for this reason."""

    workers: int
    model_bytes: int
    load: Load | None = None
    failed: str | None = None

    @property
    def name(self) -> str:
        return f"{count(self.workers)} x {size(self.model_bytes)}"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Bare aiohttp with the same clients and bodies, in the same run."""

    workers: int
    model_bytes: int
    updates_per_second: float
    p50_seconds: float
    p99_seconds: float


@dataclass(frozen=True, slots=True)
class Wake:
    """Rounds of sync in which everybody was parked but one: seconds from the last contribution to the first answer and
    to the last one, medians, and the longest of all."""

    workers: int
    model_bytes: int
    rounds: int = 0
    first_seconds: float = 0.0
    all_seconds: float = 0.0
    longest_seconds: float = 0.0
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class FloodFigures:
    """`cores`: of the machine, which server and clients share; `others_share`: what other processes used of all cores
    meanwhile, 0 to 1, None where nobody tells. `notes`: what limited the run, in words."""

    short: bool
    seconds: float
    window_seconds: float
    cores: int
    cells: tuple[Cell, ...]
    ceilings: tuple[Ceiling, ...] = ()
    wakes: tuple[Wake, ...] = ()
    others_share: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not (any(cell.failed for cell in self.cells) or any(one.failed for one in self.wakes))

    def loads(self) -> dict[tuple[int, int], Load]:
        """The cells that have figures, by workers and model size in bytes."""
        return {(cell.workers, cell.model_bytes): cell.load for cell in self.cells if cell.load is not None}

    def to_fields(self) -> dict[str, Any]:
        """Plain data for JSON. What is infinite or no number is None there."""
        fields: dict[str, Any] = _finite(asdict(self))
        return fields | {"complete": self.complete}


def size(nbytes: int) -> str:
    """In the unit that fits: 4 KiB, 1.5 GiB."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if nbytes >= unit:
            number = nbytes / unit
            return f"{number:.0f} {name}" if number >= 100 else f"{number:.3g} {name}"
    return f"{nbytes} B"


def count(number: int) -> str:
    """With a comma between thousands."""
    return f"{number:,}"


def people(workers: int) -> str:
    """1 worker, 1,000 workers."""
    return f"{count(workers)} worker" + ("" if workers == 1 else "s")


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {name: _finite(one) for name, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case float() if value != value or value in (float("inf"), float("-inf")):
            return None
        case _:
            return value
