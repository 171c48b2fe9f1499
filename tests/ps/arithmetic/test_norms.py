"""The norm of an update as it came."""

import pytest
import torch

from leeway.ps.arithmetic.norms import WITHOUT, norm


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_it_is_that_of_all_trainable_tensors(frame, dtype):
    tensors = {"a": torch.randn(50, 3).to(dtype), "b": torch.randn(7).to(dtype), "e": torch.empty(0).to(dtype)}
    sent = frame(tensors | {"c.running_var": torch.full((4,), 1e30), "n": torch.tensor(10**9)})
    whole = torch.cat([values.flatten().double() for values in tensors.values()]).norm().item()
    assert norm(sent) == pytest.approx(whole, rel=1e-3 if dtype is torch.bfloat16 else 1e-5)


def test_values_are_no_update(frame):
    sent = frame({"a": torch.tensor([3.0]), "b": torch.tensor([4.0]), "c": torch.tensor([1e9])})
    assert norm(sent, ("c",)) == 5.0
    assert norm(sent, ("a", "b", "c")) == 0.0
    assert norm(frame({})) == 0.0


def test_large_numbers_whose_squares_overflow(frame):
    assert norm(frame({"a": torch.full((4,), 1e30)})) == pytest.approx(2e30)
    assert norm(frame({"a": torch.full((4,), 1e38), "b": torch.tensor([6e4]).half()})) == pytest.approx(2e38)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_not_finite_is_larger_than_all(frame, value, dtype):
    assert norm(frame({"a": torch.tensor([1.0]), "b": torch.tensor([1.0, value]).to(dtype)})) == WITHOUT


def test_squares_that_overflow_in_float64_too(frame):
    assert norm(frame({"a": torch.full((2,), 1e200, dtype=torch.float64)})) in (
        WITHOUT,
        pytest.approx(1.414e200, rel=1e-3),
    )
