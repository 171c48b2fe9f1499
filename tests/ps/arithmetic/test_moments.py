"""Gradients whose squares do not fit: they would stop a parameter for good, and nothing would be NaN."""

import math

import pytest
import torch

from leeway.protocol.pushes import UpdateKind
from leeway.ps.arithmetic.parameters import Parameters, Update
from leeway.ps.arithmetic.settings import OptimizerKind, OptimizerSettings
from leeway.transport.memory.pool import Pool

WITHOUT_SQUARES = [OptimizerKind.SGD, OptimizerKind.MOMENTUM, OptimizerKind.NESTEROV]
WITH_SQUARES = [kind for kind in OptimizerKind if kind not in WITHOUT_SQUARES]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
HALF_WAY = {torch.float32: 1e20, torch.float64: 1e160, torch.bfloat16: 1e20}


@pytest.fixture
def group(frame):
    def build(dtype, **fields):
        parameters = Parameters(OptimizerSettings.read({"lr": 0.1, **fields}), Pool())
        offered = frame({"w": torch.ones(40, 3, dtype=dtype), "b": torch.ones(3, dtype=dtype)})
        parameters.versions.publish(parameters.offer(1, offered, {"w", "b"}))

        def step(tensors, workers=1):
            updates = [Update(UpdateKind.GRADIENT, 1, (frame(tensors),)) for _ in range(workers)]
            return parameters.step(parameters.versions.current.number + 1, updates, aggregated=workers > 1)

        return parameters, step

    return build


@pytest.mark.parametrize("kind", WITH_SQUARES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("workers", [1, 2])
def test_one_too_large_is_refused_by_name_and_the_parameter_goes_on(group, kind, dtype, workers):
    # Large enough to be seen in bfloat16 at the first step of adadelta.
    parameters, step = group(dtype, kind=kind, lr=100.0 if kind is OptimizerKind.ADADELTA else 0.1)
    before = bytes(parameters.versions.current.body)
    slope = torch.ones(3, dtype=dtype)
    slope[1] = -HALF_WAY[dtype]
    with pytest.raises(OverflowError, match=r"'b' has an element of .*clip the gradients"):
        step({"w": torch.ones(40, 3, dtype=dtype), "b": slope}, workers)
    assert bytes(parameters.versions.current.body) == before
    made = step({"w": torch.ones(40, 3, dtype=dtype), "b": torch.ones(3, dtype=dtype)}, workers)
    assert bytes(made.snapshot.body) != before
    assert all(tensor.isfinite().all() for tensor in parameters.save().optimizer_tensors.values())


@pytest.mark.parametrize("kind", WITH_SQUARES)
def test_clipped_it_is_taken(group, kind):
    parameters, step = group(torch.float32, kind=kind, clip_norm=1.0)
    step({"b": torch.tensor([1e20, 1.0, 1.0])})
    assert all(tensor.isfinite().all() for tensor in parameters.save().optimizer_tensors.values())


@pytest.mark.parametrize("kind", WITH_SQUARES)
def test_many_that_are_large_and_each_small_enough_are_taken(group, kind):
    """The sum of their squares is beyond what is taken for one."""
    parameters, step = group(torch.float32, kind=kind)
    step({"w": torch.full((40, 3), 1e16)})
    assert all(tensor.isfinite().all() for tensor in parameters.save().optimizer_tensors.values())


@pytest.mark.parametrize("kind", WITHOUT_SQUARES)
def test_where_nothing_is_squared_there_is_nothing_to_refuse(group, kind):
    _, step = group(torch.float32, kind=kind)
    made = step({"b": torch.tensor([1e20, 1.0, 1.0])})
    assert made.snapshot.non_finite == ()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_the_guard_lets_through_is_the_guards_to_refuse(group, value):
    _, step = group(torch.float32, kind="adam")
    assert step({"b": torch.tensor([value, 1.0, 1.0])}).snapshot.non_finite == ("b",)
