"""What a step is made of, one after the other: stages before the aggregation rule, the rule, stages behind it.

The one rule: a stage is a pair of functions, as in optax (`init`, and here `apply` for its `update`): it takes updates
and its state, and gives updates and its next state. It never writes to either, so a step that fails leaves everything
as it was. What a stage needs to know of the step's beginnings is its own, frozen settings.

To add one (noise, adaptive clipping): a file with a class like these, and its place in `Parameters`. Its state is saved
in checkpoints under the stage's name without another line; one without state saves nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import torch

    from leeway.ps.arithmetic.updates import Updates

    # Named tensors, a number is one without dimensions. Per key of the model: `velocity/<key>`, and absent is zero,
    # since keys may come while the server runs.
    State: TypeAlias = Mapping[str, torch.Tensor]
    # By the names of the stages; of those that have any.
    States: TypeAlias = Mapping[str, State]


class Stage(ABC):
    """`name`: under which its state is saved."""

    __slots__ = ()
    name: ClassVar[str]

    def init(self) -> State:
        """The state before the first step."""
        return {}

    @abstractmethod
    def apply(self, state: State, updates: Updates) -> tuple[Updates, State]:
        """The updates behind this stage, and the state for the next step."""


def run(stages: Iterable[Stage], states: States, updates: Updates) -> tuple[Updates, States]:
    """All stages, one after the other. States of others are given back as they are."""
    after = dict(states)
    for stage in stages:
        before = states[stage.name] if stage.name in states else stage.init()
        updates, after[stage.name] = stage.apply(before, updates)
    return updates, {name: state for name, state in after.items() if state}
