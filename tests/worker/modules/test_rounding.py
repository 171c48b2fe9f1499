"""What rounding loses of a step on its way as a delta, and who keeps it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leeway.worker.modules.rounding import Rounding


def pushed(rounding, pulled, local):
    """What the server makes of the step."""
    delta = pulled - local
    rounding.look("w", pulled, local, delta)
    return pulled - delta


@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_who_is_alone_keeps_its_own_values(seed, scale, dtype):
    generator = torch.Generator().manual_seed(seed)
    pulled = torch.randn(64, generator=generator).to(dtype)
    local = (pulled.double() * 0.99 - scale * torch.randn(64, generator=generator).double()).to(dtype)
    rounding = Rounding()
    tensor = pushed(rounding, pulled, local)
    rounding.keep("w", tensor)
    assert torch.equal(tensor, local)


def test_what_somebody_else_has_changed_is_taken():
    pulled, local = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1e-9, 1e-9, 2.5])
    rounding = Rounding()
    tensor = pushed(rounding, pulled, local)
    assert tensor.tolist() == [0.0, 0.0, 2.5]
    tensor[0] = 5.0
    rounding.keep("w", tensor)
    assert tensor[0] == 5.0
    assert torch.equal(tensor[1:], local[1:])


@pytest.mark.parametrize("shape", [(), (2, 3), (3, 2)])
def test_any_layout_in_memory(shape):
    pulled = torch.ones(shape)
    local = torch.full(shape, 1e-9)
    tensor = torch.empty(shape) if shape != (3, 2) else torch.empty((2, 3)).t()
    rounding = Rounding()
    tensor.copy_(pushed(rounding, pulled, local))
    rounding.keep("w", tensor)
    assert torch.equal(tensor, local)


def test_it_is_kept_once():
    rounding = Rounding()
    pushed(rounding, torch.ones(1), torch.full((1,), 1e-9))
    rounding.forget()
    tensor = torch.zeros(1)
    rounding.keep("w", tensor)
    assert tensor.item() == 0.0
