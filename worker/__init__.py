"""The worker's side of Leeway: a training script becomes a worker with three lines.

    session = worker.connect("http://localhost:8080")
    session.attach(model)
    while not session.finished:
        loss(model(x), y).backward()
        session.step(samples=len(x))

It speaks to the server by `protocol` alone. Importing this package is cheap: torch and aiohttp are imported when
`connect` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.training import TrainingSession

__all__ = ["connect"]


def connect(
    url: str | None = None,
    rank: str | None = None,
    *,
    group: str = "default",
    wait_seconds: float = 20.0,
    patience_seconds: float = 300.0,
) -> TrainingSession:
    """Join the server at `url`, waiting for it if it is not there yet.

    `url`: default the environment variable `PS_SERVER`. `rank`: this worker's stable name; by default `PS_RANK`, else
    what torchrun, Slurm or Kubernetes says (`w0`, `w1`, ...), else host and process id. `group`: the keys it trains.
    `wait_seconds`: how long the server may park one request; `patience_seconds`: how long it may be away.

    Raises `ValueError` for a wrong address, rank or environment, `worker.client.ServerLost` when the server has
    not been reached, `protocol.errors.WireError` when it refuses.
    """
    from worker.training import connect as connect_training

    return connect_training(url, rank, group=group, wait_seconds=wait_seconds, patience_seconds=patience_seconds)
