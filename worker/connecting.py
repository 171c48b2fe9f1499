"""How a training script becomes a worker: `connect`, and `wrap` for one that has an optimizer of its own."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Literal

from leeway.protocol.addresses import server_url
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.worker import arguments
from leeway.worker.blocking import BlockingClient
from leeway.worker.client import PATIENCE_SECONDS, WAIT_SECONDS
from leeway.worker.environment import default_rank
from leeway.worker.holders import hold
from leeway.worker.training import TrainingSession
from leeway.worker.watching.logs import of_own_script

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from leeway.worker.wrapping import Optimizer

SERVER_VARIABLE = "PS_SERVER"
RANK_VARIABLE = "PS_RANK"


def connect(
    url: str | None = None,
    rank: str | None = None,
    *,
    group: str = DEFAULT_GROUP,
    wait_seconds: float = WAIT_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
) -> TrainingSession:
    """Join the server at `url`, waiting for it if it is not there yet.

    `url`: default the environment variable `PS_SERVER`. `rank`: this worker's stable name; by default `PS_RANK`, else
    what torchrun, Slurm or Kubernetes says (`w0`, `w1`, ...), else host and process id. `group`: the keys it trains.
    `wait_seconds`: how long the server may park one request; `patience_seconds`: how long it may be away.
    A process that trains several models gives each session a rank; at a prompt and in a notebook the same rank once
    more closes the session before it.

    Raises `ValueError` for a wrong address, rank or environment and for a rank that a session of this process holds,
    `SettingError` (one too) for a server that can never be spoken with, `ServerLost` when the server has not been
    reached, `WireError` when it refuses.
    """
    address = url or os.environ.get(SERVER_VARIABLE)
    if address and not isinstance(address, str):
        raise ValueError(f"url is {str(address)[:80]!r}, it must be text such as http://127.0.0.1:8080")
    if not address:
        raise ValueError(f"no server: give its address, or set {SERVER_VARIABLE}=http://HOST:PORT")
    name = arguments.name("rank", rank or os.environ.get(RANK_VARIABLE) or default_rank())
    make = partial(
        BlockingClient,
        address,
        name,
        group=group,
        wait_seconds=wait_seconds,
        patience_seconds=patience_seconds,
        one_after_another=True,
    )
    of_own_script()
    client = None
    try:
        client = hold(server_url(address), name, make)
        client.join()
        return TrainingSession(client)
    except BaseException:
        if client is not None:
            client.close()
        raise


def wrap(
    optimizer: Optimizer,
    model: torch.nn.Module | Mapping[str, torch.nn.Module],
    *,
    url: str | None = None,
    rank: str | None = None,
    group: str = DEFAULT_GROUP,
    every: int = 1,
    samples: int | None = None,
    server_optimizer: bool = False,
    lr: Literal["script"] | None = None,
) -> Optimizer:
    """Make a worker of a script that has an optimizer of its own: connect, attach the model, and return the optimizer.

    From here on each of its steps is an iteration: what the step did is pushed, the policy obeyed, and the parameters
    pulled. Several models are parts: `leeway.wrap(of_d, {"G": generator, "D": discriminator})`, and for the other
    optimizer `of_d.session.wrap(of_g)`.
    Its `session` is the `TrainingSession`. The other arguments are those of `connect` and of `TrainingSession.wrap`;
    raises what they raise.
    """
    session = connect(url, rank, group=group)
    try:
        return session.wrap(optimizer, model, every=every, samples=samples, server_optimizer=server_optimizer, lr=lr)
    except BaseException:
        session.close()
        raise
