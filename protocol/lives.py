"""One life of a rank: what every request of a worker names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leeway.protocol.fields import Fields


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a rank, as every request of a worker names it."""

    rank: str
    epoch: int
    incarnation: int

    def __str__(self) -> str:
        return f"{self.rank}#{self.incarnation}"

    @classmethod
    def read(cls, fields: Fields) -> Life:
        return cls(fields.rank("rank"), fields.integer("epoch"), fields.integer("incarnation", minimum=1))

    def to_fields(self) -> dict[str, Any]:
        return {"rank": self.rank, "epoch": self.epoch, "incarnation": self.incarnation}
