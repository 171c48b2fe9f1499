"""When a pull is answered and when a push becomes effective: one file per policy.

To add one: a file with a class that keeps the `Policy` protocol, and a line in `make`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.ps.core.policies.asynchronous import Asynchronous
from leeway.ps.core.policies.quorum import Quorum
from leeway.ps.core.policies.ssp import Ssp
from leeway.ps.core.policies.sync import Sync

if TYPE_CHECKING:
    from leeway.protocol.policy_terms import PolicyTerms
    from leeway.ps.core.policies.policy import Policy


def make(terms: PolicyTerms) -> Policy:
    """The policy of these terms. Raises `ValueError` as `PolicyTerms.check` does."""
    terms.check()
    if terms.quorum is not None and terms.grace_seconds is not None:
        return Quorum(terms.quorum, terms.grace_seconds)
    if terms.staleness is not None:
        return Ssp(terms.staleness)
    return Sync() if terms.mode == "sync" else Asynchronous()


__all__ = ["Asynchronous", "Quorum", "Ssp", "Sync", "make"]
