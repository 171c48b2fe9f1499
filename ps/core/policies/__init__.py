"""When a pull is answered and when a push becomes effective: one file per policy.

To add one: a file with a class that keeps the `Policy` protocol, and a line in `make`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol import limits
from leeway.ps.core.policies.asynchronous import Asynchronous
from leeway.ps.core.policies.quorum import Quorum
from leeway.ps.core.policies.ssp import Ssp
from leeway.ps.core.policies.sync import Sync

if TYPE_CHECKING:
    from leeway.ps.core.policies.policy import Policy

MODES = ("sync", "async", "ssp")


def make(
    mode: str, staleness: int | None = None, quorum: int | None = None, grace_seconds: float | None = None
) -> Policy:
    """The policy of this name. `staleness`: the bound in clocks, for ssp alone, which needs it.

    `quorum`: how many pushes a round of sync closes with, all when it is None, and `grace_seconds` after them.

    Raises `ValueError` for an unknown mode, for a number that is out of range, or that the mode does not take.
    """
    if mode not in MODES:
        raise ValueError(f"unknown policy {mode!r}: choose one of {', '.join(MODES)}")
    if mode != "ssp" and staleness is not None:
        raise ValueError(f"policy {mode} takes no staleness bound ({staleness} given); only ssp does")
    if mode != "sync" and quorum is not None:
        raise ValueError(f"policy {mode} takes no quorum ({quorum} given); only sync does, the others have no rounds")
    if quorum is None and grace_seconds is not None:
        raise ValueError(f"a grace ({grace_seconds:g} s given) is for a quorum; give a quorum too")
    if mode == "sync":
        return Sync() if quorum is None else _quorum(quorum, grace_seconds)
    if mode == "async":
        return Asynchronous()
    if staleness is None:
        raise ValueError("policy ssp needs a staleness bound: 0 or more clocks")
    if not 0 <= staleness <= limits.MAX_STALENESS:
        raise ValueError(f"the staleness bound is {staleness}, it must be from 0 to {limits.MAX_STALENESS}")
    return Ssp(staleness)


def _quorum(quorum: int, grace_seconds: float | None) -> Quorum:
    if not 1 <= quorum <= limits.MAX_RANKS:
        raise ValueError(f"the quorum is {quorum}, it must be from 1 to {limits.MAX_RANKS}")
    if grace_seconds is not None and not 0 <= grace_seconds <= limits.MAX_GRACE_SECONDS:
        raise ValueError(
            f"the grace is {grace_seconds:g} s, it must be from 0 to {limits.MAX_GRACE_SECONDS:g}, or auto"
        )
    return Quorum(quorum, grace_seconds)


__all__ = ["MODES", "Asynchronous", "Quorum", "Ssp", "Sync", "make"]
