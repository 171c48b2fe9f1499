"""Initial values from a user's safetensors file.

The one rule: what cannot be taken over exactly is refused with the tensor's name; nothing is converted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from leeway import regular
from leeway.errors import CheckpointError
from leeway.protocol import documents
from leeway.protocol.frames import Frame
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import DTYPES, Kind, TensorSpec
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.storage.digests import DIGEST, is_sound
from leeway.ps.storage.safetensors_format import CHECKPOINT_KEY, KINDS_KEY
from leeway.transport.memory.aligned import allocate_aligned

if TYPE_CHECKING:
    from collections.abc import Mapping
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
    """The file's tensors as a frame to offer, in the canonical layout. Raises `ValueError` in one line.

    Kinds are those that the file states, as a download and a checkpoint do; else what is likely, until a model says
    better. Of a checkpoint, the model's tensors are taken.
    """
    try:
        regular.check(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata, all_names = file.metadata() or {}, list(file.keys())
            if CHECKPOINT_KEY in metadata and DIGEST in all_names and not is_sound(path):
                raise CheckpointError("this checkpoint is not what was written, its digest is of something else")
            kinds, names = _stated(metadata, all_names)
            tensors = {name: file.get_tensor(full) for name, full in names.items()}
            layout = Layout.of(spec_of(name, tensor, kinds.get(name)) for name, tensor in tensors.items())
            memory = allocate_aligned(layout.nbytes)
            body = Body(memory)
            body.clear()
            for name, place in layout.places.items():
                body.tensor(place).copy_(tensors[name])
    except OSError as error:
        raise ValueError(f"cannot read initial values from {path}: {error.strerror or error}") from None
    except CheckpointError as error:
        raise ValueError(
            f"cannot read initial values from {path}: {error}; give another one, or a copy of it"
        ) from None
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"cannot read initial values from {path}: {error}; it must be a safetensors file") from None
    if not layout:
        raise ValueError(f"cannot read initial values from {path}: there is no tensor in it")
    return Frame({}, tuple(layout.places.values()), memory)


def _stated(metadata: Mapping[str, str], names: list[str]) -> tuple[dict[str, Kind], dict[str, str]]:
    """What the file says of kinds, by key; and of each key its name in the file."""
    if CHECKPOINT_KEY in metadata:
        groups = documents.parse(metadata[CHECKPOINT_KEY])["groups"]
        saved = [(name, key, kind) for name, group in groups.items() for key, kind in group["kinds"].items()]
        return {key: Kind(kind) for _, key, kind in saved}, {key: f"model/{name}/{key}" for name, key, _ in saved}
    stated = documents.parse(metadata[KINDS_KEY]) if KINDS_KEY in metadata else {}
    return {key: Kind(kind) for key, kind in stated.items()}, {name: name for name in names}
