"""How a training script becomes a worker: `connect`, and `wrap` for one that has an optimizer of its own."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import structlog

from leeway.protocol.addresses import in_the_clear, server_url
from leeway.protocol.ranks import DEFAULT_GROUP
from leeway.transport.credentials.credentials import Credentials
from leeway.worker import arguments
from leeway.worker.blocking import BlockingClient
from leeway.worker.client import PATIENCE_SECONDS, WAIT_SECONDS
from leeway.worker.environment import default_rank
from leeway.worker.holders import hold
from leeway.worker.starting import Start
from leeway.worker.training import TrainingSession
from leeway.worker.watching.logs import of_own_script
from leeway.worker.watching.reporting import Reporting
from leeway.worker.watching.serving import Place
from leeway.worker.wrapping import Wrapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from leeway.worker.wrapping import Optimizer

File = str | os.PathLike[str]

SERVER_VARIABLE = "PS_SERVER"
RANK_VARIABLE = "PS_RANK"

log = structlog.get_logger("worker.client")


def connect(
    url: str | None = None,
    rank: str | None = None,
    *,
    group: str = DEFAULT_GROUP,
    wait_seconds: float = WAIT_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
    start_together: int = 1,
    metrics_port: int | None = None,
    metrics_host: str | None = None,
    token_file: File | None = None,
    ca: File | None = None,
    cert: File | None = None,
    key: File | None = None,
) -> TrainingSession:
    """Reach the server at `url`, waiting for it if it is not there yet. The worker joins with the first call that needs
    it to: `attach`, `pipeline`, `index`, `count`, `clock`.

    `url`: default the environment variable `PS_SERVER`. `rank`: this worker's stable name; by default `PS_RANK`, else
    what torchrun, Slurm or Kubernetes says (`w0`, `w1`, ...), else host and process id. `group`: the keys it trains.
    `wait_seconds`: how long the server may park one request; `patience_seconds`: how long it may be away.
    `start_together`: how many workers `attach` waits for; give all of them the same number.
    `metrics_port`: serve `/metrics` for Prometheus there (0: at a free port, see `metrics_url`), by default
    `PS_METRICS_PORT`, else nowhere; `metrics_host`: at this address, by default `PS_METRICS_HOST`, else 127.0.0.1.
    Beyond this machine they are for who shows a certificate of `ca`, or with `PS_METRICS_INSECURE=1` for anybody.
    `token_file`, `ca`, `cert`, `key`: files with this worker's token, the authorities whose certificates it believes
    (default: the system's), and its own certificate with its key; by default `PS_TOKEN_FILE`, `PS_TLS_CA`,
    `PS_TLS_CERT`, `PS_TLS_KEY`.
    A process that trains several models gives each session a rank; at a prompt and in a notebook the same rank once
    more closes the session before it.

    Raises `ValueError` for a wrong address, rank or environment, for a port that is in use, and for a rank that a
    session of this process holds, `SettingError` (one too) for a server that can never be spoken with, `ServerLost`
    when the server has not been reached, `WireError` when it refuses.
    """
    script = Path(sys.argv[0]).name or "python"
    shown = Credentials.chosen(os.environ, token_file, ca, cert, key)
    return begin(
        url,
        rank,
        script,
        group,
        wait_seconds,
        patience_seconds,
        start_together,
        metrics_port,
        metrics_host,
        credentials=shown,
    )


def begin(
    url: str | None,
    rank: str | None,
    task: str,
    group: str = DEFAULT_GROUP,
    wait_seconds: float = WAIT_SECONDS,
    patience_seconds: float = PATIENCE_SECONDS,
    start_together: int = 1,
    metrics_port: int | None = None,
    metrics_host: str | None = None,
    metrics_insecure: bool = False,
    credentials: Credentials | None = None,
) -> TrainingSession:
    """`connect`, for a script or for `ps-worker`. `task`: what it trains, for its metrics."""
    address = arguments.text("url", url, "http://127.0.0.1:8080") or os.environ.get(SERVER_VARIABLE)
    if not address:
        raise ValueError(f"no server: give its address, or set {SERVER_VARIABLE}=http://HOST:PORT")
    rank = arguments.text("rank", rank, "w0") or os.environ.get(RANK_VARIABLE) or default_rank()
    name = arguments.name("rank", rank)
    credentials = credentials or Credentials.chosen(os.environ)
    start, place = Start(start_together), Place.chosen(metrics_port, metrics_host, insecure=metrics_insecure)
    if place is not None:
        place.check(credentials)
    make = partial(
        BlockingClient,
        address,
        name,
        group=arguments.text("group", group, DEFAULT_GROUP),
        wait_seconds=wait_seconds,
        patience_seconds=patience_seconds,
        one_after_another=True,
        credentials=credentials,
    )
    of_own_script()
    client = None
    try:
        client = hold(server_url(address), name, make)
        if credentials.bearer is not None and in_the_clear(address):
            detail = "who sees the network sees token and model: the server needs TLS, its address is https then"
            log.warning("the token goes unencrypted", server=address, detail=detail)
        reporting = Reporting(client, task, place) if place else None
        client.reach()
        return TrainingSession(client, start, reporting)
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
    start_together: int = 1,
    metrics_port: int | None = None,
    metrics_host: str | None = None,
    token_file: File | None = None,
    ca: File | None = None,
    cert: File | None = None,
    key: File | None = None,
) -> Optimizer:
    """Make a worker of a script that has an optimizer of its own: connect, attach the model, and return the optimizer.

    From here on each of its steps is an iteration: what the step did is pushed, the policy obeyed, and the parameters
    pulled. Several models are parts: `leeway.wrap(of_d, {"G": generator, "D": discriminator})`, and for the other
    optimizer `of_d.session.wrap(of_g)`.
    Its `session` is the `TrainingSession`. The other arguments are those of `connect` and of `TrainingSession.wrap`;
    raises what they raise.
    """
    # What is wrong with the script is found before a server has heard of it.
    wrapping = Wrapping(optimizer, every=every, samples=samples, server_optimizer=server_optimizer, lr=lr)
    wrapping.check(model)
    session = connect(
        url,
        rank,
        group=group,
        start_together=start_together,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        token_file=token_file,
        ca=ca,
        cert=cert,
        key=key,
    )
    try:
        wrapping.begin(session, model)
    except BaseException:
        session.close()
        raise
    return optimizer
