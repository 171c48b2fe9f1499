"""What the script does to tensors beside training: which frozen ones it moves, which trained ones it changes.

The one rule: bytes are compared, on a schedule that a long run does not feel. `_version` and the address tell at every
step of what goes through torch; what does not (`.data`, a numpy view) is found by looking: in the first steps, in which
every kind of step a script has is likely to occur, and then every hundredth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from leeway.worker.modules.bodies import undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIRST_STEPS = 10
EVERY_STEPS = 100

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Schedule:
    """When all bytes are compared."""

    def __init__(self) -> None:
        self._steps = 0

    def due(self) -> bool:
        """Of the next step. To be asked once a step."""
        steps, self._steps = self._steps, self._steps + 1
        return steps < FIRST_STEPS or steps % EVERY_STEPS == 0


class Movement:
    """Of the frozen tensors, those that the script has moved: an average of weights, a target network.

    Keeps the values of the others in host memory. `moved`: for good; who has moved once is likely to move again.
    """

    def __init__(self) -> None:
        self.moved: set[str] = set()
        self._known: dict[str, torch.Tensor] = {}
        self._marks: dict[str, object] = {}
        self._schedule = Schedule()

    @undisturbed
    def begin(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """These are the frozen tensors, as they are now."""
        self._known = {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}
        self._marks = {key: _mark(tensor) for key, tensor in tensors.items()}

    def forget(self, key: str) -> None:
        """It is trained from now on."""
        self.moved.discard(key)
        self._known.pop(key, None)

    @undisturbed
    def look(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Once a step."""
        due = self._schedule.due()
        for key, known in list(self._known.items()):
            tensor = tensors[key]
            mark = _mark(tensor)
            if not due and mark == self._marks[key]:
                continue
            self._marks[key] = mark
            if not same_bytes(tensor, known):
                self.moved.add(key)
                del self._known[key]


@undisturbed
def changed(tensors: Mapping[str, torch.Tensor], pulled: Mapping[str, torch.Tensor], keys: Iterable[str]) -> list[str]:
    """Those of `keys` whose bytes are no longer those that were pulled."""
    return [key for key in keys if key in pulled and not same_bytes(tensors[key], pulled[key])]


def same_bytes(tensor: torch.Tensor, host: torch.Tensor) -> bool:
    """Whether two tensors of one shape and dtype have the same bytes: NaN is itself, and 0 is not -0."""
    integers = _INTEGERS[host.dtype.itemsize]
    return torch.equal(tensor.detach().cpu().view(integers), host.view(integers))


def _mark(tensor: torch.Tensor) -> object:
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version
