import numpy as np
import pytest

from leeway.transport.memory.aligned import allocate_aligned


@pytest.mark.parametrize("nbytes", [1, 64, 1000, 2**20])
def test_memory_is_aligned_and_writable(nbytes):
    view = allocate_aligned(nbytes)
    assert (view.nbytes, view.format, view.readonly) == (nbytes, "B", False)
    assert np.frombuffer(view, np.uint8).ctypes.data % 64 == 0
