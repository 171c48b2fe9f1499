"""What the script does to tensors beside training: which frozen ones it moves, which trained ones it changes.

The one rule: bytes are compared, on a schedule that a long run does not feel. `_version` and the address tell at every
step of what goes through torch; what does not (`.data`, a numpy view) is found by looking: in the first steps, in which
every kind of step a script has is likely to occur, and then every hundredth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from leeway.worker.modules.bodies import undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIRST_STEPS = 10
EVERY_STEPS = 100

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Schedule:
    """When all bytes are compared. Asked before, and told after: a step that is interrupted has not looked."""

    def __init__(self) -> None:
        self._steps = 0

    @property
    def due(self) -> bool:
        return self._steps < FIRST_STEPS or self._steps % EVERY_STEPS == 0

    def looked(self) -> None:
        """Once a step."""
        self._steps += 1


@dataclass(frozen=True, slots=True)
class _Known:
    """The values of a tensor that has not moved, in host memory; `mark`: as it was when they were last compared."""

    values: torch.Tensor
    mark: object


class Movement:
    """Of the frozen tensors, those that the script has moved: an average of weights, a target network.

    `moved`: for good; who has moved once is likely to move again.
    """

    def __init__(self) -> None:
        self.moved: set[str] = set()
        self._known: dict[str, _Known] = {}
        self._schedule = Schedule()

    @undisturbed
    def begin(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """These are the frozen tensors, as they are now."""
        self._known = {
            key: _Known(tensor.detach().resolve_neg().to("cpu", copy=True), _mark(tensor))
            for key, tensor in tensors.items()
        }

    @undisturbed
    def look(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Once a step, with those that are frozen still."""
        due = self._schedule.due
        for key, known in list(self._known.items()):
            if key not in tensors:
                del self._known[key]
                continue
            tensor = tensors[key]
            mark = _mark(tensor)
            if not due and mark == known.mark:
                continue
            # What is compared is compared before it is noted: an interrupt between the two must not hide a movement.
            if same_bytes(tensor, known.values):
                self._known[key] = _Known(known.values, mark)
            else:
                self.moved.add(key)
                del self._known[key]
        self._schedule.looked()


@undisturbed
def changed(tensors: Mapping[str, torch.Tensor], pulled: Mapping[str, torch.Tensor], keys: Iterable[str]) -> list[str]:
    """Those of `keys` whose bytes are no longer those that were pulled."""
    return [key for key in keys if key in pulled and not same_bytes(tensors[key], pulled[key])]


def same_bytes(tensor: torch.Tensor, plain: torch.Tensor) -> bool:
    """Whether two tensors of one shape and dtype have the same bytes: NaN is itself, and 0 is not -0. Compared on the
    device of `plain`; in host memory the first that differ end it."""
    integers = _INTEGERS[plain.dtype.itemsize]
    # A view can have its sign in a bit of its own (the imaginary part of a conjugate), and not in its memory.
    return torch.equal(tensor.detach().resolve_neg().to(plain.device).view(integers), plain.view(integers))


def _mark(tensor: torch.Tensor) -> object:
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version
