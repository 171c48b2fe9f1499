"""Values to compute with, as the server has them."""

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.values import Masters, Values
from leeway.transport.memory.aligned import allocate_aligned


def values_of(layout: Layout, memory: memoryview | None = None) -> Values:
    """Values in this layout: of this body with masters made from it, or of memory with nothing sensible in it."""
    masters = Masters.of(layout)
    wide = allocate_aligned(masters.nbytes)
    wide[:] = b"\xff" * len(wide)  # recycled memory: NaN
    if memory is None:
        memory = allocate_aligned(layout.nbytes)
        memory[:] = b"\xff" * len(memory)
        return Values(masters, memory, wide)
    values = Values(masters, memory, wide)
    values.widen()
    return values
