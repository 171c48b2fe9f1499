"""What one stage of a pipeline hands to another, and that it has been taken.

The one rule: what stands on the outside, the label, says whose it is and which one it is. A receiver judges by it
alone, before any of the tensors is received, and knows by it what is sent once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from leeway.errors import MalformedRequest
from leeway.protocol import limits
from leeway.protocol.fields import Fields, shown
from leeway.protocol.lives import Life
from leeway.protocol.tensors import DTYPES

if TYPE_CHECKING:
    from leeway.protocol.tensors import TensorSpec

# What floating tensors may be rounded to for the way. Not float16: errors are small numbers, and would vanish in it.
ROUNDED = "bfloat16"


class Direction(StrEnum):
    """What is handed over, and so to whom."""

    FORWARD = "forward"  # activations, stage k -> k+1
    BACKWARD = "backward"  # errors, stage k+1 -> k
    SHARE = "share"  # of a tied key's gradient, to the stage that owns it


_STEP = {Direction.FORWARD: 1, Direction.BACKWARD: -1}


class Purpose(StrEnum):
    """What the call of the training script is for that an iteration belongs to."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    # Nothing is computed: the stages wait for each other,
    SKIP = "skip"  # so that all have no update, or none
    END = "end"  # before they leave


@dataclass(frozen=True, slots=True)
class Call:
    """All stages have to make the same one for the same iteration; by this a receiver knows that the sender has."""

    purpose: Purpose
    micro_batches: int = 1

    def __str__(self) -> str:
        if self.purpose not in (Purpose.TRAIN, Purpose.EVALUATE):
            return str(self.purpose)
        return f"{self.purpose} in {self.micro_batches} micro-batch{'es' * (self.micro_batches > 1)}"


@dataclass(frozen=True, slots=True)
class Label:
    """Which handover: of which life of the replica, from which stage to which, in which iteration.

    Taken at most once, however often it is sent. `micro_batch` counts from 0; a share has 0.
    """

    life: Life
    sender: int
    receiver: int
    clock: int
    direction: Direction
    micro_batch: int = 0

    def __str__(self) -> str:
        way = f"{self.sender}->{self.receiver}"
        return f"{self.direction} {self.life}@{self.clock} {way} micro-batch {self.micro_batch}"

    def __post_init__(self) -> None:
        step = _STEP.get(self.direction)
        if step is None and self.sender == self.receiver:
            raise MalformedRequest(f"handover: stage {self.sender} cannot hand a share to itself")
        if step is not None and self.receiver != self.sender + step:
            raise MalformedRequest(
                f"handover: {self.direction} from stage {self.sender} goes to stage {self.sender + step}, not to"
                f" {self.receiver}"
            )

    @classmethod
    def read(cls, fields: Fields) -> Self:
        return cls(
            life=Life.read(fields),
            sender=fields.integer("sender"),
            receiver=fields.integer("receiver"),
            clock=fields.integer("clock"),
            direction=Direction(fields.choice("direction", tuple(Direction))),
            micro_batch=fields.integer("micro_batch"),
        )

    def to_fields(self) -> dict[str, Any]:
        return self.life.to_fields() | {
            "sender": self.sender,
            "receiver": self.receiver,
            "clock": self.clock,
            "direction": str(self.direction),
            "micro_batch": self.micro_batch,
        }


@dataclass(frozen=True, slots=True)
class Handover:
    """`samples`: in this micro-batch; `total`: in the whole batch of the iteration.

    `handed`: name and dtype of each tensor, in the order in which the sender has them. Activations and errors may have
    been rounded for the way: then they are `ROUNDED` in the frame, and this dtype again at the receiver.
    """

    label: Label
    call: Call
    samples: int
    total: int
    handed: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        names = ",".join(name for name, _ in self.handed)
        return f"{self.label}, {self.call}, {self.samples} of {self.total} samples: {names}"

    def __post_init__(self) -> None:
        if not 0 <= self.samples <= self.total:
            raise MalformedRequest(
                f"handover: 'samples' is {self.samples}, it must be from 0 to 'total' = {self.total}"
            )

    @classmethod
    def read(cls, fields: Fields, label: Label, specs: tuple[TensorSpec, ...]) -> Self:
        """Of the message of a frame with tensors of these specs."""
        handed = tuple(_row(row) for row in fields.listing("handed", limits.MAX_TENSORS))
        dtypes = dict(handed)
        if len(dtypes) != len(handed) or dtypes.keys() != {spec.name for spec in specs}:
            raise MalformedRequest("handover: 'handed' must name each tensor of the frame once, and no other")
        for spec in specs:
            dtype = dtypes[spec.name]
            may_be_rounded = DTYPES[dtype].floating and label.direction is not Direction.SHARE
            if spec.dtype != dtype and not (may_be_rounded and spec.dtype == ROUNDED):
                raise MalformedRequest(
                    f"handover: {spec.name} is {spec.dtype} in the frame, where 'handed' has it as {dtype}"
                )
        purpose = Purpose(fields.choice("purpose", tuple(Purpose)))
        call = Call(purpose, fields.integer("micro_batches", 1, limits.MAX_PARTS))
        return cls(label, call, fields.integer("samples"), fields.integer("total"), handed)

    def to_fields(self) -> dict[str, Any]:
        """What the frame's metadata says, beside the label."""
        return {
            "purpose": str(self.call.purpose),
            "micro_batches": self.call.micro_batches,
            "samples": self.samples,
            "total": self.total,
            "handed": [list(row) for row in self.handed],
        }


def _row(row: object) -> tuple[str, str]:
    if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], str):
        raise MalformedRequest(f"handover: 'handed' has {shown(row)}, which is not [name, dtype]")
    name, dtype = row
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise MalformedRequest(f"handover: {name[:80]}: dtype {shown(dtype)} is not one of {', '.join(DTYPES)}")
    return name, dtype


@dataclass(frozen=True, slots=True)
class Taken:
    """It is there. `repeated`: it had been before, or its iteration is over; what came now was not looked at."""

    clock: int
    direction: Direction
    micro_batch: int
    repeated: bool = False

    def __str__(self) -> str:
        again = " (repeated)" if self.repeated else ""
        return f"taken {self.direction} @{self.clock} micro-batch {self.micro_batch}{again}"

    @classmethod
    def of(cls, label: Label, *, repeated: bool = False) -> Self:
        return cls(label.clock, label.direction, label.micro_batch, repeated)

    @classmethod
    def read(cls, value: object) -> Self:
        fields = Fields(value, "taken")
        return cls(
            clock=fields.integer("clock"),
            direction=Direction(fields.choice("direction", tuple(Direction))),
            micro_batch=fields.integer("micro_batch"),
            repeated=fields.flag("repeated"),
        )

    def to_fields(self) -> dict[str, Any]:
        return {
            "clock": self.clock,
            "direction": str(self.direction),
            "micro_batch": self.micro_batch,
            "repeated": self.repeated,
        }
