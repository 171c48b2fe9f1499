"""Twins: the same elements under several names."""

import torch
from torch import nn

from leeway.worker.torch_bridge import ModelBridge
from tests.worker.bridged import received, served, tensor_of


def tied_objects():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight.data = model[0].weight.data
    return model


def test_gradients_of_twins_are_summed():
    model = tied_objects()
    bridge = ModelBridge(model)
    alone = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    alone[0].weight = alone[1].weight = nn.Parameter(model[0].weight.detach().clone())
    for net in (model, alone):
        net(torch.ones(1, 3)).sum().backward()
    assert not torch.equal(model[0].weight.grad, model[1].weight.grad)
    pushed = tensor_of(received(bridge.gradients()), "0.weight")
    assert torch.allclose(pushed, alone[0].weight.grad)
    assert torch.equal(pushed, model[0].weight.grad + model[1].weight.grad)
    # Where only one of them has a gradient, it is the sum.
    bridge.forget_gradients()
    model[1](torch.ones(1, 3)).sum().backward()
    assert torch.equal(tensor_of(received(bridge.gradients()), "0.weight"), model[1].weight.grad)


def test_twins_are_pulled_and_differ_from_the_pulled_as_one():
    model = tied_objects()
    model.register_buffer("a", torch.zeros(2))
    model.register_buffer("b", model.a[:])
    bridge = ModelBridge(model)
    bridge.load(served(bridge, lambda name, tensor: torch.full_like(tensor, 5.0)))
    assert (model[1].weight == 5.0).all()
    assert (model.b == 5.0).all()
    model[1].weight.data -= 1
    frame = received(bridge.deltas())
    assert torch.equal(tensor_of(frame, "0.weight"), torch.ones(3, 3))
    assert {place.spec.name for place in frame.places} == {"0.weight", "a"}


def test_one_object_under_two_names_is_counted_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    bridge = ModelBridge(model)
    model[0].weight.grad = torch.ones(3, 3)
    assert torch.equal(tensor_of(received(bridge.gradients()), "0.weight"), torch.ones(3, 3))


def test_sparse_gradients_of_twins():
    model = nn.ModuleList([nn.Embedding(4, 2, sparse=True), nn.Embedding(4, 2)])
    model[1].weight.data = model[0].weight.data
    bridge = ModelBridge(model)
    (model[0](torch.tensor([1])).sum() + model[1](torch.tensor([1, 2])).sum()).backward()
    assert tensor_of(received(bridge.gradients()), "0.weight").tolist() == [[0, 0], [2, 2], [1, 1], [0, 0]]
