"""Workers meet at a named barrier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leeway.protocol import limits
from leeway.protocol.fields import Fields
from leeway.protocol.lives import Life


@dataclass(frozen=True, slots=True)
class Barrier:
    """Arrive at generation `generation` of a named barrier. `parties`: not to pass with fewer arrived than this."""

    life: Life
    name: str
    generation: int
    parties: int = 1
    wait_seconds: float | None = None

    def __str__(self) -> str:
        return f"barrier {self.name}/{self.generation} {self.life}"

    @classmethod
    def read(cls, fields: Fields, name: str, wait_seconds: float | None) -> Barrier:
        return cls(
            life=Life.read(fields),
            name=Fields({"name": name}, "barrier").rank("name"),
            generation=fields.integer("generation"),
            parties=fields.integer("parties", 1, limits.MAX_RANKS) if "parties" in fields else 1,
            wait_seconds=wait_seconds,
        )

    def to_fields(self) -> dict[str, Any]:
        return self.life.to_fields() | {"generation": self.generation, "parties": self.parties}


@dataclass(frozen=True, slots=True)
class Passed:
    """The barrier's generation is passed; the next is `generation` + 1."""

    name: str
    generation: int

    def __str__(self) -> str:
        return f"passed {self.name}/{self.generation}"

    @classmethod
    def read(cls, value: object) -> Passed:
        fields = Fields(value, "passed")
        return cls(fields.rank("name"), fields.integer("generation"))

    def to_fields(self) -> dict[str, Any]:
        return {"name": self.name, "generation": self.generation}
