"""The memory that updates are written to and sent from, and typed views of bodies.

The one rule: everything here is in host memory whatever torch's default device is, and no inference tensor, so that
it can be written to in whatever mode the training loop is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

from leeway.protocol.tensors import ALIGNMENT_BYTES
from leeway.transport.channel import Tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from leeway.protocol.frames import Frame
    from leeway.protocol.spans import Layout
    from leeway.protocol.tensors import TensorSpec

P = ParamSpec("P")
T = TypeVar("T")

# Which of GAN-like loops push in turn are few; if the keys change all the time, nothing piles up.
MAX_LAYOUTS = 8


def undisturbed(function: Callable[P, T]) -> Callable[P, T]:
    """Run without autograd, and outside any inference mode of the caller: tensors that are kept must not be of it."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return call


def write(target: torch.Tensor, values: torch.Tensor) -> None:
    """`copy_`, also into a tensor that was made in inference mode, which can be written to in that mode only."""
    with torch.inference_mode() if target.is_inference() else torch.no_grad():
        target.copy_(values)


@dataclass(frozen=True, slots=True)
class _LaidOut:
    block: torch.Tensor
    layout: Layout
    views: dict[str, torch.Tensor]


class Body:
    """One block of memory that bodies are laid out in, one after another; pinned for a model on a GPU.

    Invariant: what is between the tensors is zero, and nobody is sending the block while it is written to.
    """

    def __init__(self, *, pinned: bool) -> None:
        self.pinned = pinned
        # In one piece: an interrupt comes between any two assignments.
        self._laid_out: _LaidOut | None = None

    @undisturbed
    def lay_out(self, layout: Layout) -> dict[str, torch.Tensor]:
        """The tensors to write to, by name. Their contents are undefined, the padding is zero."""
        before = self._laid_out
        if before is not None and before.layout == layout:
            return before.views
        if before is not None and before.block.numel() >= layout.nbytes:
            block = before.block
        else:
            block = new_block(layout.nbytes, pinned=self.pinned)
        block.zero_()
        views = {name: _view(block, place.spec, place.offset_bytes) for name, place in layout.places.items()}
        self._laid_out = _LaidOut(block, layout, views)
        return views

    def tensors(self, values: tuple[str, ...] = ()) -> Tensors:
        """What was laid out last, ready to be sent. `values`: see `Push`."""
        assert self._laid_out is not None
        layout = self._laid_out.layout
        return Tensors(layout, [self._laid_out.block.numpy().data[: layout.nbytes]], values)


@undisturbed
def new_block(nbytes: int, *, pinned: bool) -> torch.Tensor:
    """Uninitialized bytes, uint8 `(nbytes,)`, at an address that is a multiple of 64."""
    room = torch.empty(nbytes + ALIGNMENT_BYTES, dtype=torch.uint8, device="cpu", pin_memory=pinned)
    start = -room.data_ptr() % ALIGNMENT_BYTES
    return room[start : start + nbytes]


@undisturbed
def views_of(frame: Frame) -> dict[str, torch.Tensor]:
    """The tensors of a received frame, where they lie."""
    # frombuffer refuses a buffer without bytes.
    empty = new_block(0, pinned=False)
    block = torch.frombuffer(frame.body, dtype=torch.uint8) if frame.body.nbytes else empty
    return {place.spec.name: _view(block, place.spec, place.offset_bytes) for place in frame.places}


def _view(block: torch.Tensor, spec: TensorSpec, offset_bytes: int) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    return block[offset_bytes : offset_bytes + spec.nbytes].view(dtype).view(spec.shape)
