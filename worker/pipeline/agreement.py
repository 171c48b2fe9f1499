"""What the stages of a replica agree on when they join: things that must be the same in all of them, and notes from
which each works out the same cut.

The one rule: pure. Whoever has the notes of all stages comes to the same cut; one that was decided before stands.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from leeway.errors import MalformedRequest, WireError
from leeway.protocol.codes import Code
from leeway.protocol.limits import MAX_NOTES
from leeway.worker.pipeline.costs import LayerCost
from leeway.worker.pipeline.cut import check

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from leeway.protocol.tensors import TensorSpec
    from leeway.worker.pipeline.cut import Cut


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class Notes:
    """`costs`: of each layer on this stage's machine; None: it has not measured. `cut`: as decided before. `holds`: of
    which version its values are; empty: initial ones.
    """

    costs: tuple[LayerCost, ...] | None = None
    cut: Cut | None = None
    holds: str = ""

    def write(self) -> str:
        """Raises `ValueError` for more layers than there is room for."""
        rows = None if self.costs is None else [_figures(cost) for cost in self.costs]
        text = json.dumps({"costs": rows, "cut": self.cut, "holds": self.holds}, separators=(",", ":"))
        if len(text) > MAX_NOTES:
            raise ValueError(
                f"the costs of {len(rows or ())} layers are too many to tell; name larger blocks (blocks=)"
            )
        return text

    @classmethod
    def read(cls, text: str, names: Sequence[str]) -> Notes:
        """What another stage has written, of a model with these layers. What cannot be read is nothing."""
        try:
            found = json.loads(text) if text else {}
            rows, cut, holds = found.get("costs"), found.get("cut"), str(found.get("holds", ""))
            costs = None
            if rows is not None:
                costs = tuple(_cost(name, row) for name, row in zip(names, rows, strict=True))
            return cls(costs, None if cut is None else tuple(map(int, cut)), holds)
        except (ValueError, TypeError, AttributeError, MalformedRequest):
            return cls()


class Announcement:
    """The notes of this stage as they stand: read whenever it joins. It refers to nothing else."""

    def __init__(self) -> None:
        self.notes = Notes()

    def write(self) -> str:
        return self.notes.write()


def _figures(cost: LayerCost) -> list[float | int]:
    _, *figures = astuple(cost)
    return [float(f"{figure:.4g}") if isinstance(figure, float) else figure for figure in figures]


def _cost(name: str, row: Sequence[float | int]) -> LayerCost:
    names = ("forward_seconds", "backward_seconds", "parameters", "value_bytes", "activation_bytes", "input_bytes")
    fields = dict(zip((*names, "output_bytes"), row, strict=True))
    return LayerCost.read({"name": name, **fields})


def check_values(notes: Sequence[Notes]) -> None:
    """Raise `WireError` where a server without a model would have to take one together from different versions."""
    if len({each.holds for each in notes}) > 1:
        held = ", ".join(f"stage {stage} {each.holds or 'nothing yet'}" for stage, each in enumerate(notes))
        raise WireError(
            Code.STAGES_DIFFER,
            "the server was started again without its model, and what the stages hold is no whole one: of versions"
            f" {held}. Start the server from a checkpoint (--state-dir, --resume), or the server and all stages anew",
        )


def decided(notes: Iterable[Notes], layers: int, stages: int) -> Cut | None:
    """The cut that a stage has decided on before."""
    for each in notes:
        if each.cut is not None:
            check(each.cut, layers, stages)
            return each.cut
    return None


def model_digest(specs: Iterable[TensorSpec], layers: Iterable[object]) -> str:
    """Of the names, shapes and dtypes of a model's tensors and of what its layers say of themselves (`repr`), but for
    addresses in memory, as Python shows functions with."""
    digest = hashlib.sha256()
    for line in (*map(repr, specs), *map(repr, layers)):
        digest.update(f"{_ADDRESS.sub('', line)}\n".encode())
    return digest.hexdigest()[:16]
