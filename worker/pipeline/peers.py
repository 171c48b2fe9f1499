"""One life of a replica as one of its stages knows it, and whom that stage takes anything from.

The one rule: pure. Whoever is of another life, meant another stage or does not know the secret is refused, with what
was expected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol import limits
from leeway.protocol.codes import Code

if TYPE_CHECKING:
    from leeway.protocol.handovers import Label
    from leeway.protocol.lives import Life
    from leeway.transport.credentials.bearer import Bearer


@dataclass(frozen=True, slots=True)
class Peers:
    """`stage` is this one, of `stages`; `addresses` has the URL of each, by number.

    Of each sender and direction at most `room` handovers wait here to be received, of at most `max_body_bytes` each; to
    each receiver and direction at most `in_flight` are under way. Raises `ValueError`.
    """

    life: Life
    stage: int
    stages: int
    addresses: tuple[str, ...] = field(repr=False)
    credentials: Bearer = field(repr=False)
    micro_batches: int
    room: int
    in_flight: int
    max_body_bytes: int = limits.DEFAULT_MAX_BODY_BYTES

    def __post_init__(self) -> None:
        if not 0 <= self.stage < self.stages:
            raise ValueError(f"stage {self.stage} is none of {self.stages}: they are numbered from 0")
        if len(self.addresses) != self.stages:
            raise ValueError(f"{self.stages} stages with {len(self.addresses)} addresses; each has one")
        for name in ("micro_batches", "room", "in_flight", "max_body_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be 1 or more")

    def __str__(self) -> str:
        return f"stage {self.stage} of {self.life}"

    def has(self, stage: int) -> bool:
        return 0 <= stage < self.stages

    def is_of(self, life: Life) -> bool:
        mine = self.life
        return (life.rank, life.epoch, life.incarnation) == (mine.rank, mine.epoch, mine.incarnation)

    def is_before(self, life: Life) -> bool:
        """Whether that is a life of the same rank, later than this one: then it begins here too, soon."""
        mine = self.life
        return life.rank == mine.rank and (life.epoch, life.incarnation) > (mine.epoch, mine.incarnation)

    def check(self, label: Label, authorization: str | None) -> None:
        """Raise `WireError` unless a neighbour of this life means this stage."""
        mine, life = self.life, label.life
        if not self.is_of(life):
            raise WireError(
                Code.UNKNOWN_NEIGHBOUR,
                f"this is {self} (epoch {mine.epoch}), and the handover is of {life} (epoch {life.epoch}); if that is"
                " over, join again, and else see which address its stages advertise",
            )
        if not self.credentials.admits(authorization):
            fault = "is missing" if authorization is None else "is another"
            raise WireError(
                Code.UNKNOWN_NEIGHBOUR,
                f"the secret of {life} {fault}: send the one that came with the join, as Authorization: Bearer SECRET",
            )
        if label.receiver != self.stage or label.sender >= self.stages:
            raise WireError(
                Code.UNKNOWN_NEIGHBOUR,
                f"this is {self}, which has {self.stages} stages, and the handover goes from stage {label.sender} to"
                f" {label.receiver}; see which addresses they advertise",
            )
        if label.micro_batch >= self.micro_batches:
            raise WireError(
                Code.INVALID_VALUE,
                f"micro-batch {label.micro_batch} of {self.micro_batches}: they are numbered from 0, and all stages"
                " need the same number of them",
            )
