"""What a tensor is on the wire: a name, a shape, a dtype, a kind. Never its values.

The one rule: a `TensorSpec` that exists is valid, on whichever side of the wire it was made.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

from leeway.errors import MalformedRequest
from leeway.protocol.limits import MAX_NAME, MAX_NDIM, MAX_TENSOR_BYTES
from leeway.protocol.names import is_tensor_name

if TYPE_CHECKING:
    from collections.abc import Mapping

# One cache line, and the widest vector register in use (AVX-512). A multiple of every item size, so a tensor
# with its padding is still a whole number of items.
ALIGNMENT_BYTES = 64


# In a safetensors file this is no tensor. A name that cannot be downloaded or saved is none here either.
RESERVED_NAME = "__metadata__"


def aligned(nbytes: int) -> int:
    """The smallest multiple of `ALIGNMENT_BYTES` that is not below `nbytes`."""
    return (nbytes + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES


class Kind(StrEnum):
    """How a tensor is treated. Listed in the order in which the kinds lie in a body."""

    TRAINABLE = "trainable"  # takes part in optimizers, clipping, compression, noise and distances
    FLOAT_BUFFER = "float-buffer"  # travels as a value and is averaged: BatchNorm's running mean and variance
    INTEGER_BUFFER = "integer-buffer"  # travels as a value and replaces; the maximum for num_batches_tracked

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"unknown kind {reprlib.repr(value)}; it must be one of {', '.join(cls)}")


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: always little-endian, `itemsize` in bytes.

    `numpy_descr` is None for bfloat16, which numpy does not know: view its bytes as "<u2" there.
    """

    name: str
    itemsize: int
    safetensors_code: str
    floating: bool
    numpy_descr: str | None


DTYPES: Mapping[str, DType] = MappingProxyType(
    {
        dtype.name: dtype
        for dtype in (
            DType("float32", 4, "F32", True, "<f4"),
            DType("float64", 8, "F64", True, "<f8"),
            DType("float16", 2, "F16", True, "<f2"),
            DType("bfloat16", 2, "BF16", True, None),
            DType("int64", 8, "I64", False, "<i8"),
            DType("int32", 4, "I32", False, "<i4"),
            DType("int16", 2, "I16", False, "<i2"),
            DType("int8", 1, "I8", False, "|i1"),
            DType("uint8", 1, "U8", False, "|u1"),
            DType("bool", 1, "BOOL", False, "|b1"),
        )
    }
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor without its values. `shape` is empty for a scalar; a dimension may be zero.

    Raises `ValueError`, which names the tensor, the value and the limit, when a field is out of bounds or the
    kind does not fit the dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind

    def __post_init__(self) -> None:
        name = self.name
        if not is_tensor_name(name):
            found = f"{reprlib.repr(name)} with {len(name)} characters"
            raise ValueError(f"tensor name {found} is not one of 1 to {MAX_NAME} printable ones")
        if name == RESERVED_NAME:
            raise ValueError(
                f"a tensor cannot be called {name!r}: safetensors files keep that for themselves; rename it"
            )
        dtype = DTYPES.get(self.dtype)
        if dtype is None:
            raise ValueError(f"{name}: unknown dtype {reprlib.repr(self.dtype)}; it must be one of {', '.join(DTYPES)}")
        if len(self.shape) > MAX_NDIM:
            raise ValueError(f"{name}: {len(self.shape)} dimensions; the limit is {MAX_NDIM}")
        for size in self.shape:
            # bool is an int to Python, and to torch a numpy integer is none: only the plain thing travels.
            if type(size) is not int or size < 0:
                raise ValueError(f"{name}: dimension {reprlib.repr(size)} is not an integer >= 0")
        if math.prod(size or 1 for size in self.shape) * dtype.itemsize > MAX_TENSOR_BYTES:
            raise ValueError(f"{name}: shape {list(self.shape)} takes more than {MAX_TENSOR_BYTES} bytes")
        if dtype.floating is (self.kind is Kind.INTEGER_BUFFER):
            wanted = "an integer or bool" if dtype.floating else "a floating"
            raise ValueError(f"{name}: kind {self.kind} needs {wanted} dtype, not {self.dtype}")

    @classmethod
    def read(cls, row: object) -> TensorSpec:
        """The spec of a peer's `[name, dtype, kind, shape]`. Raises `MalformedRequest`."""
        if not isinstance(row, list) or [type(cell) for cell in row] != [str, str, str, list]:
            raise MalformedRequest(f"{reprlib.repr(row)} is not [name, dtype, kind, shape]")
        name, dtype, kind, shape = row
        try:
            return cls(name, tuple(shape), dtype, Kind(kind))
        except ValueError as error:
            raise MalformedRequest(str(error)) from None

    def to_row(self) -> list[Any]:
        """What `read` reads: plain data for JSON and msgpack."""
        return [self.name, self.dtype, str(self.kind), list(self.shape)]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the values, without padding."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{','.join(map(str, self.shape))}]"
