"""Who may do what: the rights that a token can have, and what each request needs.

The one rule: pure. Whoever listens finds out who asks; what that one may ask for is decided here, for every listener.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from leeway.errors import WireError
from leeway.protocol import routes
from leeway.protocol.codes import Code

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Right(StrEnum):
    READER = "reader"  # looks on: status, events, metrics, parameters, policy
    WORKER = "worker"  # trains, under the ranks of its token
    DEVICE = "device"  # takes part in rounds of a federation
    ADMIN = "admin"  # changes the policy and the optimizer, saves checkpoints, releases who is in quarantine


# Whoever trains, or changes the run, sees it.
_IMPLIED: Final[Mapping[Right, frozenset[Right]]] = MappingProxyType(
    {
        Right.READER: frozenset({Right.READER}),
        Right.WORKER: frozenset({Right.WORKER, Right.READER}),
        Right.DEVICE: frozenset({Right.DEVICE}),
        Right.ADMIN: frozenset({Right.ADMIN, Right.READER}),
    }
)

ANYBODY: Final = None
"""Of a request that needs no right: it tells nothing of a run."""

NEEDED: Final[Mapping[tuple[str, str], Right | None]] = MappingProxyType(
    {
        ("POST", routes.WORKERS): Right.WORKER,
        ("DELETE", routes.WORKER): Right.WORKER,
        ("PUT", routes.LEASE): Right.WORKER,
        ("PUT", routes.PARAMS): Right.WORKER,
        ("GET", routes.PARAMS): Right.READER,
        ("POST", routes.UPDATES): Right.WORKER,
        ("POST", routes.BARRIER): Right.WORKER,
        ("PUT", routes.POLICY): Right.ADMIN,
        ("GET", routes.POLICY): Right.READER,
        ("GET", routes.PREVIEW): Right.READER,
        ("PUT", routes.OPTIMIZER): Right.ADMIN,
        ("GET", routes.OPTIMIZER): Right.READER,
        ("GET", routes.STATUS): Right.READER,
        ("GET", routes.EVENTS): Right.READER,
        ("POST", routes.CHECKPOINTS): Right.ADMIN,
        ("GET", routes.CHECKPOINTS): Right.READER,
        ("PUT", routes.QUARANTINE): Right.ADMIN,
        ("DELETE", routes.QUARANTINE): Right.ADMIN,
        ("GET", routes.METRICS): Right.READER,
        ("GET", routes.SESSION): ANYBODY,
        ("POST", routes.SESSION): ANYBODY,
        ("DELETE", routes.SESSION): ANYBODY,
        ("GET", routes.LIVE): ANYBODY,
        ("GET", routes.READY): ANYBODY,
        ("GET", routes.OPENAPI): ANYBODY,
        ("GET", routes.PAGE): ANYBODY,
        ("GET", routes.PAGE_FILE): ANYBODY,
    }
)
"""By method and route. What is not in it needs `ADMIN`: a route that somebody forgot is nobody's."""


def needed(method: str, route: str) -> Right | None:
    """What this request needs; HEAD is a GET whose body nobody wants."""
    return NEEDED.get(("GET" if method == "HEAD" else method, route), Right.ADMIN)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name`: of the token, for people. `ranks`: those that it may be; None: any that no other token has."""

    name: str
    rights: frozenset[Right]
    ranks: frozenset[str] | None = None

    def may(self, right: Right) -> bool:
        return any(right in _IMPLIED[each] for each in self.rights)


@dataclass(frozen=True, slots=True)
class Callers:
    """All that there are: a rank that one of them has is nobody else's."""

    by_name: Mapping[str, Caller] = field(default_factory=dict)

    @property
    def bound(self) -> frozenset[str]:
        """The ranks that tokens have."""
        return frozenset().union(*(caller.ranks or () for caller in self.by_name.values()))

    def check(self, caller: Caller, right: Right | None, rank: str | None = None) -> None:
        """Raise `WireError` unless this caller may do what needs `right`, as this rank."""
        if right is not None and not caller.may(right):
            rights = ", ".join(sorted(caller.rights))
            raise WireError(
                Code.FORBIDDEN,
                f"this needs the right {right}, and the token {caller.name} has {rights}",
                right=str(right),
            )
        if rank is not None:
            self._check_rank(caller, rank)

    def _check_rank(self, caller: Caller, rank: str) -> None:
        if caller.ranks is not None:
            if rank not in caller.ranks:
                own = listed(caller.ranks)
                raise WireError(
                    Code.FORBIDDEN, f"the token {caller.name} is for {own}, and not for rank {rank}", rank=rank
                )
        elif rank in self.bound:
            raise WireError(
                Code.FORBIDDEN, f"rank {rank} has a token of its own, and {caller.name} is another", rank=rank
            )


def listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
