"""A bridge whatever modes and defaults of torch are around it."""

import contextlib

import pytest
import torch
from torch import nn

from leeway.protocol.spans import Layout
from leeway.transport.channel import Tensors as WireTensors
from leeway.worker.torch_bridge import ModelBridge
from tests.worker.bridged import received, served, tensor_of


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS = [
    torch.inference_mode,
    torch.no_grad,
    lambda: default_device("meta"),
    lambda: torch.device("meta"),
    lambda: default_dtype(torch.float64),
]


@pytest.mark.parametrize("around_attach", [contextlib.nullcontext, *SURROUNDINGS])
@pytest.mark.parametrize("around_step", [contextlib.nullcontext, *SURROUNDINGS])
def test_modes_and_defaults_do_not_matter(around_attach, around_step):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    gradient = torch.full((2, 3), 0.5)
    pulls = [served(ModelBridge(model), lambda name, tensor, by=by: tensor + by) for by in (1, 2)]
    with around_attach():
        bridge = ModelBridge(model)
        layout = Layout.of(bridge.specs)
        assert received(WireTensors(layout, bridge.values(layout))).matches(layout)
        bridge.load(pulls[0])
    model[0].weight.grad = gradient
    model.frozen.data.mul_(3)
    with around_step():
        frame = received(bridge.gradients())
        bridge.load(pulls[1])
        bridge.forget_gradients()
    assert torch.equal(tensor_of(frame, "0.weight"), gradient)
    assert torch.equal(tensor_of(frame, "frozen"), model.frozen)
    assert torch.equal(model[0].weight, tensor_of(pulls[1], "0.weight"))
    with torch.no_grad():
        model[0].weight.sub_(0.25)
    with around_step():
        frame = received(bridge.deltas())
    assert torch.equal(tensor_of(frame, "0.weight"), tensor_of(pulls[1], "0.weight") - model[0].weight)


def test_a_buffer_that_inference_mode_has_made_anew():
    model = nn.Linear(3, 2)
    model.register_buffer("count", torch.zeros(()))
    bridge = ModelBridge(model)
    bridge.load(served(bridge))
    with torch.inference_mode():
        model.count = model.count + 1
    model.weight.grad = torch.ones(2, 3)
    assert tensor_of(received(bridge.gradients()), "count").item() == 2.0
    bridge.load(served(bridge, lambda name, tensor: torch.full_like(tensor, 7)))
    assert model.count.item() == 7.0
