"""One life of a rank: what every request of a worker names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.protocol import limits

if TYPE_CHECKING:
    from leeway.protocol.fields import Fields


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a rank, as every request of a worker names it; of a replica, the stage that asks."""

    rank: str
    epoch: int
    incarnation: int
    stage: int | None = None

    def __str__(self) -> str:
        stage = "" if self.stage is None else f"/{self.stage}"
        return f"{self.rank}{stage}#{self.incarnation}"

    @classmethod
    def read(cls, fields: Fields) -> Life:
        stage = fields.integer("stage", 0, limits.MAX_STAGES - 1) if "stage" in fields else None
        return cls(fields.rank("rank"), fields.integer("epoch"), fields.integer("incarnation", minimum=1), stage)

    def to_fields(self) -> dict[str, Any]:
        fields = {"rank": self.rank, "epoch": self.epoch, "incarnation": self.incarnation}
        return fields if self.stage is None else fields | {"stage": self.stage}
