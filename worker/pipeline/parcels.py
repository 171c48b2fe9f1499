"""What is handed over as it lies on the way: tensors to a body, and back.

The one rule: a tensor comes out with the name, the place, the shape and the dtype that it had. On the way it may be
rounded, where that was asked for; shares of gradients never are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from leeway.protocol.handovers import ROUNDED, Direction, Handover
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import DTYPES, Kind, TensorSpec, aligned
from leeway.transport.channel import Tensors
from leeway.worker.modules.bodies import new_block, undisturbed, views_of
from leeway.worker.pipeline.neighbours import Handed

if TYPE_CHECKING:
    from leeway.protocol.frames import Frame
    from leeway.protocol.handovers import Call, Label

_NAMES = {getattr(torch, name): name for name in DTYPES}
_PADDING = memoryview(bytes(64))


@dataclass(frozen=True, slots=True)
class Parcel:
    """A handover with its tensors, ready to be sent: now, and once more if that gets lost."""

    handover: Handover
    tensors: Tensors


@dataclass(frozen=True, slots=True)
class Arrived:
    """A handover as it came."""

    handover: Handover
    frame: Frame


@undisturbed
def pack(label: Label, call: Call, handed: Handed, *, rounded: bool) -> Parcel:
    """`rounded`: whether floats of more than two bytes become bfloat16 for the way.

    What lies contiguous in the CPU's memory is sent from there; a share is copied always, because a gradient is set to
    zero where it lies while it may still be on its way. Raises `ValueError` for what cannot travel.
    """
    share = handed.direction is Direction.SHARE
    specs = {name: _spec(label, name, tensor, rounded=rounded) for name, tensor in handed.tensors.items()}
    layout = Layout.of(specs.values())
    buffers: list[memoryview] = []
    for name, place in layout.places.items():
        buffers.append(_bytes(handed.tensors[name], place.spec.dtype, copy=share))
        buffers.append(_PADDING[: aligned(place.end_bytes) - place.end_bytes])
    rows = tuple((name, _NAMES[tensor.dtype]) for name, tensor in handed.tensors.items())
    return Parcel(
        Handover(label, call, handed.samples, handed.total, rows), Tensors(layout, [b for b in buffers if b.nbytes])
    )


@undisturbed
def unpack(arrived: Arrived) -> Handed:
    """The tensors are views of the received body, or made of it where they were rounded."""
    handover, label = arrived.handover, arrived.handover.label
    views = views_of(arrived.frame)
    tensors = {name: views[name].to(getattr(torch, dtype)) for name, dtype in handover.handed}
    return Handed(label.direction, label.micro_batch, handover.samples, handover.total, tensors)


def _spec(label: Label, name: str, tensor: torch.Tensor, *, rounded: bool) -> TensorSpec:
    dtype = _NAMES.get(tensor.dtype)
    if dtype is None:
        raise ValueError(
            f"stage {label.sender} cannot hand over {name!r}, which is {tensor.dtype}; what travels is"
            f" {', '.join(DTYPES)}: convert it within the stage, or cut elsewhere"
        )
    if tensor.layout != torch.strided:
        raise ValueError(
            f"stage {label.sender} cannot hand over {name!r}, which is {tensor.layout}; make it dense: to_dense(), or"
            " for an embedding sparse=False"
        )
    shape = tuple(tensor.shape)
    if not tensor.is_floating_point():
        return TensorSpec(name, shape, dtype, Kind.INTEGER_BUFFER)
    if label.direction is Direction.SHARE:
        return TensorSpec(name, shape, dtype, Kind.TRAINABLE)
    wire = ROUNDED if rounded and tensor.dtype.itemsize > DTYPES[ROUNDED].itemsize else dtype
    return TensorSpec(name, shape, wire, Kind.FLOAT_BUFFER)


def _bytes(tensor: torch.Tensor, dtype: str, *, copy: bool) -> memoryview:
    wire = getattr(torch, dtype)
    lies_ready = tensor.device.type == "cpu" and tensor.dtype == wire and tensor.is_contiguous()
    if copy or not lies_ready or tensor.is_neg():
        room = new_block(tensor.numel() * wire.itemsize, pinned=False).view(wire).view(tensor.shape)
        tensor = room.copy_(tensor)
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data
