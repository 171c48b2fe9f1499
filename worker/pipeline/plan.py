"""The plan: the cut with what it costs each stage, for people before the start, and for the other stages.

The one rule: pure figures. What they were measured on is each stage's own machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leeway.protocol.fields import Fields
from leeway.worker.pipeline.cut import BALANCED, balanced, parts, read, sums
from leeway.worker.pipeline.schedules import SCHEDULES, schedule
from leeway.worker.pipeline.schedules.efficiency import best

if TYPE_CHECKING:
    from collections.abc import Sequence

    from leeway.worker.pipeline.costs import LayerCost
    from leeway.worker.pipeline.cut import Cost, Cut
    from leeway.worker.pipeline.schedules.schedule import Schedule

# How often a worker has the values of its parameters in memory: the module's, their gradients, what was pulled last,
# and the body of the update.
COPIES = 4

# Far more than anybody's stages or layers: what a peer sends is bounded.
MAX_LISTED = 10_000


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage. Seconds are for one micro-batch; `activation_bytes`: kept at most, at one moment; `memory_bytes`: that
    and the values, `COPIES` times."""

    layers: tuple[str, ...]
    forward_seconds: float
    backward_seconds: float
    parameters: int
    activation_bytes: int
    memory_bytes: int

    @classmethod
    def read(cls, value: object) -> StagePlan:
        fields = Fields(value, "a stage's plan")
        return cls(
            tuple(map(str, fields.listing("layers", MAX_LISTED))),
            fields.number("forward_seconds"),
            fields.number("backward_seconds"),
            fields.integer("parameters"),
            fields.integer("activation_bytes"),
            fields.integer("memory_bytes"),
        )

    def to_fields(self) -> dict[str, Any]:
        return {
            "layers": list(self.layers),
            "forward_seconds": self.forward_seconds,
            "backward_seconds": self.backward_seconds,
            "parameters": self.parameters,
            "activation_bytes": self.activation_bytes,
            "memory_bytes": self.memory_bytes,
        }

    @property
    def seconds(self) -> float:
        return self.forward_seconds + self.backward_seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages, in order."""

    schedule: str
    micro_batches: int
    stages: tuple[StagePlan, ...]

    @classmethod
    def read(cls, value: object) -> Plan:
        """What `to_fields` gave. Raises `MalformedRequest`."""
        fields = Fields(value, "a plan")
        return cls(
            fields.choice("schedule", tuple(SCHEDULES)),
            fields.integer("micro_batches", 1),
            tuple(map(StagePlan.read, fields.listing("stages", MAX_LISTED))),
        )

    def to_fields(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule,
            "micro_batches": self.micro_batches,
            "stages": [stage.to_fields() for stage in self.stages],
        }

    @property
    def cut(self) -> Cut:
        return tuple(len(stage.layers) for stage in self.stages)

    @property
    def efficiency(self) -> float:
        """The share of all stages' time in which they compute, at best: with links that cost nothing. 0 to 1."""
        forward = [stage.forward_seconds for stage in self.stages]
        backward = [stage.backward_seconds for stage in self.stages]
        if not any(forward) and not any(backward):
            return 1.0
        return best(schedule(self.schedule), forward, backward, self.micro_batches)

    @property
    def slowest(self) -> int:
        """The stage that the others wait for."""
        return max(range(len(self.stages)), key=lambda number: self.stages[number].seconds)

    def table(self) -> str:
        """In words, a line for each stage."""
        heads = ("stage", "layers", "forward", "backward", "parameters", "activations", "memory")
        rows = [heads, *(self._row(number) for number in range(len(self.stages)))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row[:2], widths)) + "  " + self._right(row[2:], widths[2:]) for row in rows]
        waited = f"; the others wait for stage {self.slowest}" if len(self.stages) > 1 else ""
        lines.append(
            f"{self.schedule}, {self.micro_batches} micro-batches (times are of one): at best {self.efficiency:.0%} of"
            f" the time is computing{waited}"
        )
        return "\n".join(lines)

    def _row(self, number: int) -> tuple[str, ...]:
        stage = self.stages[number]
        first, last = stage.layers[0], stage.layers[-1]
        return (
            str(number),
            f"{first} to {last} ({len(stage.layers)})" if len(stage.layers) > 1 else first,
            f"{stage.forward_seconds * 1e3:.1f} ms",
            f"{stage.backward_seconds * 1e3:.1f} ms",
            f"{stage.parameters:,}",
            _in_words(stage.activation_bytes),
            _in_words(stage.memory_bytes),
        )

    @staticmethod
    def _right(cells: Sequence[str], widths: Sequence[int]) -> str:
        return "  ".join(map(str.rjust, cells, widths))


def make(
    costs: Sequence[Sequence[LayerCost]],
    name: str,
    micro_batches: int,
    cut: str = "time",
    *,
    recompute: bool = False,
    copies: int = COPIES,
) -> Plan:
    """The plan for these costs: a row for each stage, measured on its machine, in it each layer of the model.

    `name`: of the schedule. `cut`: "time" or "memory", for the cut whose slowest, or largest, stage is the least; or
    the layers of each stage, "2,3,3". Raises `ValueError` for a cut that cannot be.
    """
    chosen = schedule(name)
    figures = _Figures(costs, chosen, micro_batches, recompute, copies)
    layers, stages = len(costs[0]), len(costs)
    if cut in BALANCED:
        sizes = balanced(layers, stages, figures.seconds if cut == "time" else figures.memory_bytes)
    else:
        sizes = read(cut, layers, stages)
    return Plan(name, micro_batches, tuple(figures.stage(stage, *bounds) for stage, bounds in enumerate(parts(sizes))))


class _Figures:
    """What stage `stage` costs with the layers from `begin` up to `end`."""

    def __init__(
        self,
        costs: Sequence[Sequence[LayerCost]],
        chosen: Schedule,
        micro_batches: int,
        recompute: bool,
        copies: int,
    ) -> None:
        self._costs = costs
        self._held = [chosen.held(stage, len(costs), micro_batches) for stage in range(len(costs))]
        self._recompute = recompute
        self._copies = copies
        self._forward = self._sums("forward_seconds")
        self._backward = self._sums("backward_seconds")
        self._parameters = self._sums("parameters")
        self._values = self._sums("value_bytes")
        self._activations = self._sums("activation_bytes")

    def seconds(self, stage: int, begin: int, end: int) -> float:
        """To compute again is a forward more."""
        forwards = 2 if self._recompute else 1
        return forwards * self._forward(stage, begin, end) + self._backward(stage, begin, end)

    def activation_bytes(self, stage: int, begin: int, end: int) -> float:
        kept = self._activations(stage, begin, end)
        if not self._recompute:
            return self._held[stage] * kept
        # The inputs of all that are held, and one of them computed again.
        return self._held[stage] * self._costs[stage][begin].input_bytes + kept

    def memory_bytes(self, stage: int, begin: int, end: int) -> float:
        return self._copies * self._values(stage, begin, end) + self.activation_bytes(stage, begin, end)

    def stage(self, stage: int, begin: int, end: int) -> StagePlan:
        forward = self._forward(stage, begin, end)
        return StagePlan(
            tuple(cost.name for cost in self._costs[stage][begin:end]),
            forward,
            self.seconds(stage, begin, end) - forward,
            round(self._parameters(stage, begin, end)),
            round(self.activation_bytes(stage, begin, end)),
            round(self.memory_bytes(stage, begin, end)),
        )

    def _sums(self, figure: str) -> Cost:
        return sums([[getattr(cost, figure) for cost in row] for row in self._costs])


def _in_words(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB" if nbytes >= 2**20 else f"{nbytes / 2**10:.1f} KiB"
