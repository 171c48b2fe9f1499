"""Frozen parameters: taken at attach, moved by the script alone, trained from when they require a gradient."""

import pytest
import torch
from torch import nn

from leeway.worker.torch_bridge import ModelBridge
from tests.worker.bridged import names, received, served, tensor_of


def test_frozen_and_unused_parameters_are_offered_and_not_pushed():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 2)
            self.frozen.requires_grad_(False)

    model = Model()
    bridge = ModelBridge(model)
    assert len(bridge.specs) == 6
    model.frozen(model.used(torch.ones(1, 3))).sum().backward()
    assert names(bridge.gradients()) == {"used.weight", "used.bias"}
    # Used after all, and then again not: the body has no trace of the one before.
    model.unused(torch.full((1, 3), 7.0)).sum().backward()
    assert len(names(bridge.gradients())) == 4
    bridge.forget_gradients()
    model.used(torch.ones(1, 3)).sum().backward()
    assert torch.equal(tensor_of(received(bridge.gradients()), "used.weight"), torch.ones(2, 3))


class Encoders(nn.Module):
    """One that is trained, and one that follows it."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
        self.key.requires_grad_(False)
        self.table = nn.Parameter(torch.arange(3), requires_grad=False)

    def loss(self):
        return self.query(torch.ones(1, 3)).sum()


@pytest.fixture
def encoders():
    """The module, its bridge, and the values that it pulled."""
    model = Encoders()
    bridge = ModelBridge(model)
    pulled = served(bridge)
    bridge.load(pulled)
    return model, bridge, pulled


def test_frozen_values_are_taken_at_attach_alone(encoders):
    model, bridge, pulled = encoders
    assert torch.equal(model.key.weight, tensor_of(pulled, "key.weight"))
    bridge.load(served(bridge, lambda name, tensor: torch.full_like(tensor, 9)))
    assert torch.equal(model.key.weight, tensor_of(pulled, "key.weight"))
    assert model.table.tolist() == [1, 2, 3]
    assert (model.query.weight == 9).all()


@pytest.mark.parametrize(
    "move",
    [
        lambda weight: weight.mul_(0.5),
        lambda weight: weight.data.mul_(0.5),
        lambda weight: setattr(weight, "data", weight.data * 0.5),
    ],
)
@pytest.mark.parametrize("kind", ["gradient", "delta"])
def test_what_the_script_moves_goes_along_as_a_value(encoders, move, kind):
    model, bridge, _ = encoders
    collect = bridge.gradients if kind == "gradient" else bridge.deltas
    model.loss().backward()
    assert collect().values == ()
    move(model.key.weight)
    model.table += 1
    tensors = collect()
    frame = received(tensors)
    assert tensors.values == ("key.weight",)
    assert torch.equal(tensor_of(frame, "key.weight"), model.key.weight)
    # A buffer is a value in any push.
    assert tensor_of(frame, "table").tolist() == [2, 3, 4]
    # The others keep theirs to themselves, and know it when they come first.
    assert names(collect(first=False)) == {"query.weight"}
    assert collect().values == ("key.weight",)
    # Until the server has it.
    bridge.load(served(bridge, lambda name, tensor: dict(model.named_parameters())[name].detach()))
    model.loss().backward()
    assert names(collect()) == {"query.weight"}


def test_what_others_move_is_not_sent_back(encoders):
    model, bridge, _ = encoders
    bridge.load(served(bridge, lambda name, tensor: tensor + 1))
    model.loss().backward()
    assert names(bridge.gradients()) == {"query.weight"}


def test_nothing_but_moved_values_is_nothing_to_push(encoders):
    model, bridge, _ = encoders
    model.key.weight.data.zero_()
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        bridge.gradients()


def test_a_parameter_that_requires_a_gradient_once_is_trained(encoders):
    model, bridge, _ = encoders
    model.key.requires_grad_(True)
    (model.loss() + model.key(torch.ones(1, 3)).sum()).backward()
    assert names(bridge.gradients()) == {"query.weight", "key.weight"}
    model.key.requires_grad_(False)
    bridge.load(served(bridge, lambda name, tensor: torch.full_like(tensor, 4)))
    assert (model.key.weight == 4).all()
    assert (model.query.weight == 4).all()


def test_toggling_loses_neither_gradients_nor_pulls():
    model = nn.ModuleDict({"g": nn.Linear(2, 2, bias=False), "d": nn.Linear(2, 1, bias=False)})
    bridge = ModelBridge(model)
    for step, (trained, other) in enumerate([("g", "d"), ("d", "g")] * 3):
        model[other].requires_grad_(False)
        model[trained].requires_grad_(True)
        model["d"](model["g"](torch.ones(1, 2))).sum().backward()
        # As some do, before the step.
        model[trained].requires_grad_(False)
        assert names(bridge.gradients()) == {f"{trained}.weight"}
        bridge.load(served(bridge, lambda name, tensor, step=step: torch.full_like(tensor, step)))
        bridge.forget_gradients()
        assert (model["g"].weight == step).all()
        assert (model["d"].weight == step).all()


def test_a_delta_of_one_that_rests_is_sent_only_if_it_has_changed():
    model = nn.Linear(3, 2)
    bridge = ModelBridge(model)
    bridge.load(served(bridge))
    model.bias.requires_grad_(False)
    assert names(bridge.deltas()) == names(bridge.weights()) == {"weight"}
    with torch.no_grad():
        model.bias.add_(1)
    assert names(bridge.weights()) == {"weight", "bias"}
    assert torch.allclose(tensor_of(received(bridge.deltas()), "bias"), torch.full((2,), -1.0))
