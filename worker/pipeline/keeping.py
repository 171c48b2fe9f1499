"""How many bytes autograd keeps for the backward pass.

The one rule: memory is counted once, whatever looks at it, and the module's own (parameters, buffers) not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType


class Keeping:
    """Counts what is saved for the backward pass within. `nbytes`: of that and what was `add`ed; `keeps` tells whether
    a tensor's memory is counted."""

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._own = {_place(tensor) for module in modules for tensor in (*module.parameters(), *module.buffers())}
        self._bytes: dict[tuple[torch.device, int], int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _as_it_is)

    @property
    def nbytes(self) -> int:
        return sum(self._bytes.values())

    def keeps(self, tensor: torch.Tensor) -> bool:
        return _place(tensor) in self._bytes

    def without(self, tensors: Iterable[torch.Tensor]) -> int:
        """The bytes of what is in the memory of none of these."""
        left_out = set(map(_place, tensors))
        return sum(nbytes for place, nbytes in self._bytes.items() if place not in left_out)

    def add(self, tensor: torch.Tensor) -> None:
        if (place := _place(tensor)) not in self._own:
            self._bytes[place] = tensor.untyped_storage().nbytes()

    def __enter__(self) -> Keeping:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, traceback)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout is torch.strided:
            self.add(tensor)
        return tensor


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Of their elements alone, whatever else is in their memory."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _place(tensor: torch.Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()


def _as_it_is(tensor: Any) -> Any:
    return tensor
