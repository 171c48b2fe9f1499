"""Weight gradients that are put off are those of autograd."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from leeway.worker.pipeline.late_weights import LateWeights

torch.manual_seed(0)

LAYERS = {
    "linear": (nn.Linear(4, 3), torch.randn(5, 4)),
    "no bias": (nn.Linear(4, 3, bias=False), torch.randn(5, 4)),
    "sequences": (nn.Linear(4, 3), torch.randn(5, 2, 4)),
    "one sample": (nn.Linear(4, 3), torch.randn(4)),
    "conv1d": (nn.Conv1d(4, 6, 3, groups=2), torch.randn(5, 4, 7)),
    "conv2d": (nn.Conv2d(2, 3, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2)), torch.randn(5, 2, 8, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2, bias=False), torch.randn(2, 2, 3, 3, 3)),
}
LEFT = {
    "padding in words": (nn.Conv2d(2, 3, 3, padding="same"), torch.randn(5, 2, 8, 8)),
    "no batch": (nn.Conv2d(2, 3, 3), torch.randn(2, 8, 8)),
    "frozen": (nn.Linear(4, 3).requires_grad_(False), torch.randn(5, 4)),
    "frozen bias": (nn.Linear(4, 3), torch.randn(5, 4)),
    "norm": (nn.LayerNorm(4), torch.randn(5, 4)),
    "lstm": (nn.LSTM(4, 3), torch.randn(5, 2, 4)),
}
LEFT["frozen bias"][0].bias.requires_grad_(False)


def by_autograd(layer, inputs):
    inputs = inputs.clone().requires_grad_()
    layer.zero_grad()
    weighted(layer(inputs)).backward()
    return inputs.grad, {name: p.grad for name, p in layer.named_parameters()}


def weighted(output):
    output = output[0] if isinstance(output, tuple) else output
    return (output * torch.arange(output.numel()).view_as(output)).mean()


@pytest.mark.parametrize("name", {**LAYERS, **LEFT})
def test_gradients_are_those_of_autograd(name):
    layer, inputs = {**LAYERS, **LEFT}[name]
    error, gradients = by_autograd(layer, inputs)
    layer.zero_grad()
    mine, late = inputs.clone().requires_grad_(), LateWeights()
    with late:
        loss = weighted(layer(mine))
    loss.backward()
    torch.testing.assert_close(mine.grad, error)
    if name in LAYERS:
        assert all(parameter.grad is None for parameter in layer.parameters())
    late.compute()
    for one, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[one])
    late.compute()
    for one, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[one])


def test_they_are_added_to_what_is_there():
    layer, inputs = LAYERS["linear"]
    _, gradients = by_autograd(layer, inputs)
    wanted = {name: 2 * gradient for name, gradient in gradients.items()}
    late = LateWeights()
    with late:
        loss = weighted(layer(inputs))
    loss.backward()
    late.compute()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name])


def test_a_weight_that_is_computed_itself_is_left_to_autograd():
    weight = torch.randn(3, 4, requires_grad=True)
    with LateWeights():
        loss = functional.linear(torch.randn(5, 4), weight * 2).mean()
    loss.backward()
    assert weight.grad is not None


def test_lower_precision_is_left_to_autograd():
    layer = nn.Linear(4, 3)
    with LateWeights(), torch.autocast("cpu", torch.bfloat16):
        loss = layer(torch.randn(5, 4)).float().mean()
    loss.backward()
    assert layer.weight.grad.dtype is torch.float32
