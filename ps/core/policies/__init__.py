"""When a pull is answered and when a push becomes effective: one file per policy.

To add one: a file with a class that keeps the `Policy` protocol, and a line in `make`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.protocol import limits
from leeway.ps.core.policies.asynchronous import Asynchronous
from leeway.ps.core.policies.ssp import Ssp
from leeway.ps.core.policies.sync import Sync

if TYPE_CHECKING:
    from leeway.ps.core.policies.policy import Policy

MODES = ("sync", "async", "ssp")


def make(mode: str, staleness: int | None = None) -> Policy:
    """The policy of this name. `staleness`: the bound in clocks, for ssp alone, which needs it.

    Raises `ValueError` for an unknown mode, a bound below 0 or too large, or a bound that the mode does not take.
    """
    if mode not in MODES:
        raise ValueError(f"unknown policy {mode!r}: choose one of {', '.join(MODES)}")
    if mode != "ssp":
        if staleness is not None:
            raise ValueError(f"policy {mode} takes no staleness bound ({staleness} given); only ssp does")
        return Sync() if mode == "sync" else Asynchronous()
    if staleness is None:
        raise ValueError("policy ssp needs a staleness bound: 0 or more clocks")
    if not 0 <= staleness <= limits.MAX_STALENESS:
        raise ValueError(f"the staleness bound is {staleness}, it must be from 0 to {limits.MAX_STALENESS}")
    return Ssp(staleness)


__all__ = ["MODES", "Asynchronous", "Ssp", "Sync", "make"]
