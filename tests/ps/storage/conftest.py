"""A model's body, with every dtype and awkward shape, as a version has it."""

import pytest
import torch

from leeway.protocol.spans import Layout
from leeway.ps.arithmetic.bodies import Body
from leeway.ps.storage.initial import spec_of
from leeway.transport.memory.aligned import allocate_aligned

TENSORS = {
    "net.weight": torch.arange(21.0).view(3, 7),
    "net.bias": torch.tensor(5.0),
    "wide": torch.randn(2, 5, generator=torch.Generator().manual_seed(1)).double(),
    "half": torch.arange(9.0).half(),
    "brain": torch.arange(9.0).bfloat16().view(3, 3),
    "void": torch.empty(0, 4),
    "bn.running_mean": torch.ones(3),
    "bn.num_batches_tracked": torch.tensor(12),
    "flags": torch.tensor([True, False, True]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "small": torch.arange(-3, 3, dtype=torch.int8),
    "short": torch.arange(3, dtype=torch.int16),
    "int": torch.arange(3, dtype=torch.int32).view(3, 1),
}


@pytest.fixture(scope="session")
def tensors():
    return TENSORS


@pytest.fixture(scope="session")
def layout():
    return Layout.of(spec_of(name, tensor) for name, tensor in TENSORS.items())


@pytest.fixture
def body(layout):
    memory = allocate_aligned(layout.nbytes)
    view = Body(memory)
    view.clear()
    for name, place in layout.places.items():
        view.tensor(place).copy_(TENSORS[name])
    return memory


@pytest.fixture(scope="session")
def same():
    def compare(found, expected):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype, name
            assert found[name].shape == tensor.shape, name
            assert torch.equal(found[name], tensor), name

    return compare
