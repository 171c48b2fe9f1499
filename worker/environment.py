"""Which worker of how many this process is, told from what launched it.

The one rule: two variables that belong together are believed, one alone is not; what is contradictory is the
user's to see.

| launcher | number | world |
|---|---|---|
| torchrun | `RANK` | `WORLD_SIZE` |
| Slurm | `SLURM_PROCID` | `SLURM_NTASKS` |
| Kubernetes, indexed Job | `JOB_COMPLETION_INDEX` | |
| Kubernetes, StatefulSet | the ordinal at the end of `HOSTNAME` | |
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# Kubernetes gives a Deployment's pods names that end in five random characters, which can all be digits.
_ORDINAL = re.compile(r".+-(\d{1,4})", re.ASCII)
_NOT_IN_RANK = re.compile(r"[^A-Za-z0-9._-]", re.ASCII)


@dataclass(frozen=True, slots=True)
class Placement:
    """`number` counts from 0; `world` is None where the launcher does not tell; `source` is who said so."""

    number: int
    world: int | None
    source: str

    @property
    def rank(self) -> str:
        """The worker's stable name: the same after a restart in the same place."""
        return f"w{self.number}"


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(f"the environment variable {name} is {text!r}, it must be a number from 0")
    return int(text)


def placement(environ: Mapping[str, str] = os.environ) -> Placement | None:
    """Where this process stands, or None when no launcher has said.

    Raises `ValueError` when a launcher's variables are no numbers, or the number is not below the world's size.
    """
    for number, world, source in (
        ("RANK", "WORLD_SIZE", "torchrun"),
        ("SLURM_PROCID", "SLURM_NTASKS", "Slurm"),
    ):
        if number in environ and world in environ:
            place = Placement(_number(environ, number), _number(environ, world), source)
            if place.world is not None and place.number >= place.world:
                raise ValueError(f"{number} is {place.number}, it must be below {world}, which is {place.world}")
            return place
    if "JOB_COMPLETION_INDEX" in environ:
        return Placement(_number(environ, "JOB_COMPLETION_INDEX"), None, "Kubernetes Job")
    if "KUBERNETES_SERVICE_HOST" in environ:
        ordinal = _ORDINAL.fullmatch(environ.get("HOSTNAME", ""))
        if ordinal:
            return Placement(int(ordinal.group(1)), None, "Kubernetes StatefulSet")
    return None


def rank(environ: Mapping[str, str] = os.environ) -> str | None:
    """The rank that a launcher gave this process. Raises what `placement` raises."""
    place = placement(environ)
    return place.rank if place else None


def default_rank(environ: Mapping[str, str] = os.environ) -> str:
    """The launcher's rank; without a launcher a name of this process alone, from host and process id.

    Raises what `placement` raises.
    """
    host = _NOT_IN_RANK.sub("-", socket.gethostname().partition(".")[0])[:40]
    return rank(environ) or f"{host}-{os.getpid()}"
