"""Initial values from a user's safetensors file.

The one rule: what cannot be taken over exactly is refused with the tensor's name; nothing is converted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from leeway.protocol.decoder import allocate_aligned
from leeway.protocol.frames import Frame
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import DTYPES, Kind, TensorSpec
from leeway.ps.arithmetic.bodies import Body

if TYPE_CHECKING:
    from pathlib import Path

    import torch

# The last part of the names that PyTorch's normalisation layers give to their floating buffers.
_BUFFER_NAMES = ("running_mean", "running_var")


def kind_of(name: str, dtype: str) -> Kind:
    """Integers are buffers; so are floating tensors called running_mean or running_var; the rest is
    trainable.
    """
    if not DTYPES[dtype].floating:
        return Kind.INTEGER_BUFFER
    return Kind.FLOAT_BUFFER if name.endswith(_BUFFER_NAMES) else Kind.TRAINABLE


def spec_of(name: str, tensor: torch.Tensor, kind: Kind | None = None) -> TensorSpec:
    """What a torch tensor is on the wire; its kind from name and dtype unless given. Raises `ValueError`."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} is {dtype}; it must be one of {', '.join(DTYPES)}")
    return TensorSpec(name, tuple(tensor.shape), dtype, kind or kind_of(name, dtype))


def load_initial(path: Path) -> Frame:
    """The file's tensors as a frame to offer, in the canonical layout. Raises `ValueError` in one line."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            layout = Layout.of(spec_of(name, tensor) for name, tensor in tensors.items())
            memory = allocate_aligned(layout.nbytes)
            body = Body(memory)
            body.clear()
            for name, place in layout.places.items():
                body.tensor(place).copy_(tensors[name])
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"cannot read initial values from {path}: {error}; it must be a safetensors file") from None
    if not layout:
        raise ValueError(f"cannot read initial values from {path}: there is no tensor in it")
    return Frame({}, tuple(layout.places.values()), memory)
