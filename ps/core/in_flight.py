"""Versions that are decided and not yet published, and who is to be told when they are.

Invariant: a group's `in_flight` holds exactly the numbers above `published`, up to `decided`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leeway.protocol.offers import Offered
    from leeway.protocol.tensors import TensorSpec
    from leeway.ps.core.lives import Incarnation
    from leeway.ps.core.progress import Record


@dataclass(slots=True)
class Offering:
    """An offer that is being stored in `groups_left` groups; it is answered when the last has published it."""

    request: int
    reply: Offered
    groups_left: int
    gone: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Adding:
    """One group's part of an offer: the keys that its next version gets."""

    offering: Offering
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adopting:
    """The tensors of a file are being given a model's names and kinds: `specs` from then on."""

    offering: Offering
    specs: Mapping[str, TensorSpec]


@dataclass(slots=True)
class OnArrival:
    """A push on arrival that is being applied."""

    member: Incarnation
    record: Record


@dataclass(slots=True)
class RoundStep:
    """The aggregated step of a round; its members were told `held` already. `records`: of those who live on."""

    records: tuple[Record, ...]


InFlight = Adding | Adopting | OnArrival | RoundStep
