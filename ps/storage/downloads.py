"""A version as a file that other tools open: safetensors for all of it, .npy for one tensor.

The one rule: the values are views of the version's body, which stays pinned until the last of them is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leeway.errors import WireError
from leeway.protocol.codes import Code
from leeway.protocol.routes import SAFETENSORS
from leeway.protocol.tensors import DTYPES
from leeway.ps.storage.safetensors_format import KINDS_KEY, entries, kinds, write

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leeway.protocol.frames import Buffer
    from leeway.protocol.spans import Layout, Place

# numpy.lib.format, version 1.0: magic, version, the header's length in 2 bytes, then a Python literal that
# ends in a newline and fills up to a multiple of 64.
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_ALIGNMENT_BYTES = 64


def safetensors(layout: Layout, body: memoryview, names: Iterable[str] | None = None) -> list[Buffer]:
    """A safetensors file of all tensors, or of those named, as buffers.

    Raises `ValueError` for a name that is unknown, or that the format reserves.
    """
    wanted = layout if names is None else layout.restrict(names)
    metadata = {"format": "pt", KINDS_KEY: kinds(wanted)}
    return write((entry for entry in entries(layout, body) if entry.name in wanted), metadata)


def npy(place: Place, body: memoryview) -> list[Buffer]:
    """The tensor that lies at a place of the body as a .npy file, as buffers.

    Raises `WireError` with `NOT_ACCEPTABLE` for bfloat16, which numpy does not know.
    """
    spec = place.spec
    descr = DTYPES[spec.dtype].numpy_descr
    if descr is None:
        raise WireError(
            Code.NOT_ACCEPTABLE,
            f"tensor {spec.name!r} is {spec.dtype}, which numpy does not know; ask for {SAFETENSORS}",
        )
    literal = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {spec.shape!r}, }}".encode()
    before = len(_NPY_MAGIC) + 2
    literal += b" " * (-(before + len(literal) + 1) % _NPY_ALIGNMENT_BYTES) + b"\n"
    head = _NPY_MAGIC + len(literal).to_bytes(2, "little") + literal
    data = body[place.offset_bytes : place.end_bytes]
    return [head, data] if data else [head]
