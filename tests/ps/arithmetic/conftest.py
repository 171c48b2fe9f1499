"""Frames from torch tensors, as a client would send them, and back."""

import pytest
import torch

from leeway.protocol.frames import Frame
from leeway.protocol.spans import Layout, Place
from leeway.protocol.tensors import Kind, TensorSpec, aligned
from leeway.ps.arithmetic.bodies import Body
from leeway.transport.memory.aligned import allocate_aligned


def spec_of(name: str, tensor: torch.Tensor) -> TensorSpec:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if not tensor.dtype.is_floating_point:
        kind = Kind.INTEGER_BUFFER
    elif name.endswith(("running_mean", "running_var")):
        kind = Kind.FLOAT_BUFFER
    else:
        kind = Kind.TRAINABLE
    return TensorSpec(name, tuple(tensor.shape), dtype, kind)


def build(tensors: dict[str, torch.Tensor], *, as_given: bool = False) -> Frame:
    """`as_given`: the tensors lie in the order of the dict, not in that of the layout."""
    specs = [spec_of(name, tensor) for name, tensor in tensors.items()]
    if as_given:
        places, end = [], 0
        for spec in specs:
            places.append(Place(spec, end))
            end = aligned(end + spec.nbytes)
    else:
        layout = Layout.of(specs)
        places, end = list(layout.places.values()), layout.nbytes
    memory = allocate_aligned(end)
    body = Body(memory)
    body.clear()
    for place in places:
        body.tensor(place).copy_(tensors[place.spec.name])
    return Frame({}, tuple(places), memory)


@pytest.fixture(scope="session")
def frame():
    return build


@pytest.fixture(scope="session")
def values():
    """The tensors of a snapshot (or anything with layout and body), by name, as copies."""

    def read(snapshot) -> dict[str, torch.Tensor]:
        body = Body(memoryview(bytearray(snapshot.body)))
        return {name: body.tensor(place).clone() for name, place in snapshot.layout.places.items()}

    return read


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(7)
