"""What a layer costs one machine, for one micro-batch, as plain figures.

The one rule: they add up. The costs of a stage are the sums of its layers'.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from leeway.protocol.fields import Fields


@dataclass(frozen=True, slots=True)
class LayerCost:
    """`name`: of the layer. `parameters`: how many numbers; `value_bytes`: of them and of the buffers (what is tied
    counts in each of its layers). `activation_bytes`: what is kept for the backward pass. `input_bytes` and
    `output_bytes`: what goes over the border before and behind the layer, if the model is cut there."""

    name: str
    forward_seconds: float
    backward_seconds: float
    parameters: int
    value_bytes: int
    activation_bytes: int
    input_bytes: int
    output_bytes: int

    @classmethod
    def read(cls, value: object) -> LayerCost:
        """What `to_fields` gave. Raises `MalformedRequest`."""
        fields = Fields(value, "a layer's costs")
        return cls(
            fields.text("name"),
            fields.number("forward_seconds"),
            fields.number("backward_seconds"),
            fields.integer("parameters"),
            fields.integer("value_bytes"),
            fields.integer("activation_bytes"),
            fields.integer("input_bytes"),
            fields.integer("output_bytes"),
        )

    def to_fields(self) -> dict[str, Any]:
        return asdict(self)
