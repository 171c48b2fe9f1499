"""A module's tensors to bodies and back."""

import numpy as np
import pytest
import torch
from torch import nn

from leeway.protocol.decoder import decode
from leeway.protocol.frames import encode
from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind
from leeway.worker.exchange import Tensors
from leeway.worker.torch_bridge import ModelBridge


def received(tensors):
    """The frame that the other side gets."""
    body = b"".join(bytes(memoryview(buffer)) for buffer in tensors.buffers)
    return decode(b"".join(bytes(part) for part in encode({}, tensors.layout, [body])))


def tensor_of(frame, name):
    (place,) = [place for place in frame.places if place.spec.name == name]
    dtype = getattr(torch, place.spec.dtype)
    if not place.spec.nbytes:
        return torch.empty(place.spec.shape, dtype=dtype)
    return torch.frombuffer(bytearray(frame.tensor(name)), dtype=dtype).view(place.spec.shape)


def served(bridge, change=lambda name, tensor: tensor + 1):
    """A pulled frame: the model's values, changed."""
    values = received(Tensors(Layout.of(bridge.specs), bridge.values(Layout.of(bridge.specs))))
    body = np.frombuffer(values.body, np.uint8).copy()
    for place in values.places:
        changed = change(place.spec.name, tensor_of(values, place.spec.name)).contiguous()
        raw = changed.view(torch.uint8) if changed.ndim else changed.view(1).view(torch.uint8)
        body[place.offset_bytes : place.end_bytes] = raw.flatten().numpy()
    return received(Tensors(Layout.of(bridge.specs), [body]))


def names(tensors):
    return set(tensors.layout.places)


def test_parameters_and_buffers_with_their_kinds():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    kinds = {spec.name: spec.kind for spec in ModelBridge(model).specs}
    assert kinds == {
        "0.weight": Kind.TRAINABLE,
        "0.bias": Kind.TRAINABLE,
        "1.weight": Kind.TRAINABLE,
        "1.bias": Kind.TRAINABLE,
        "1.running_mean": Kind.FLOAT_BUFFER,
        "1.running_var": Kind.FLOAT_BUFFER,
        "1.num_batches_tracked": Kind.INTEGER_BUFFER,
    }


def test_values_are_the_models_until_something_is_pulled():
    model = nn.Linear(3, 2)
    bridge = ModelBridge(model)
    frame = received(Tensors(Layout.of(bridge.specs), bridge.values(Layout.of(bridge.specs))))
    assert torch.equal(tensor_of(frame, "weight"), model.weight)
    pulled = served(bridge)
    bridge.load(pulled)
    with torch.no_grad():
        model.weight.zero_()
    only_weight = Layout.of([spec for spec in bridge.specs if spec.name == "weight"])
    again = received(Tensors(only_weight, bridge.values(only_weight)))
    assert torch.equal(tensor_of(again, "weight"), tensor_of(pulled, "weight"))


def test_load_takes_every_tensor_in_place():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    bridge = ModelBridge(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    bridge.load(served(bridge))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] + 1), name
    assert [parameter.data_ptr() for parameter in model.parameters()] == addresses
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_gradients_and_buffers_are_pushed():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    bridge = ModelBridge(model)
    model(torch.randn(4, 3, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    tensors = bridge.gradients()
    frame = received(tensors)
    assert names(tensors) == {spec.name for spec in bridge.specs}
    assert torch.equal(tensor_of(frame, "0.weight"), model[0].weight.grad)
    assert torch.equal(tensor_of(frame, "1.running_mean"), model[1].running_mean)
    assert tensor_of(frame, "1.num_batches_tracked").item() == 1


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


def test_tied_parameters_are_one_key():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    bridge = ModelBridge(model)
    assert [spec.name for spec in bridge.specs] == ["0.weight"]
    assert bridge.aliases == {"0.weight": ("1.weight",)}
    model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(tensor_of(received(bridge.gradients()), "0.weight"), model[1].weight.grad)
    bridge.load(served(bridge, lambda name, tensor: torch.full_like(tensor, 5.0)))
    assert (model[1].weight == 5.0).all()


def test_buffers_that_are_not_saved_stay_at_home():
    model = nn.Linear(2, 2)
    model.register_buffer("mask", torch.ones(2), persistent=False)
    model.register_buffer("scale", torch.ones(2))
    assert {spec.name for spec in ModelBridge(model).specs} == {"weight", "bias", "scale"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes(dtype):
    model = nn.Linear(3, 2, dtype=dtype)
    bridge = ModelBridge(model)
    before = model.weight.detach().clone()
    bridge.load(served(bridge, lambda name, tensor: tensor * 2))
    assert torch.equal(model.weight, before * 2)
    model.weight.grad = torch.full((2, 3), 0.1, dtype=dtype)
    assert torch.equal(tensor_of(received(bridge.gradients()), "weight"), model.weight.grad)


def test_scalars_empty_tensors_and_frozen_integers():
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor(2.0))
    model.none = nn.Parameter(torch.empty(0, 3))
    model.table = nn.Parameter(torch.arange(5, dtype=torch.int8), requires_grad=False)
    bridge = ModelBridge(model)
    assert {spec.name: (spec.kind, spec.shape) for spec in bridge.specs} == {
        "scale": (Kind.TRAINABLE, ()),
        "none": (Kind.TRAINABLE, (0, 3)),
        "table": (Kind.INTEGER_BUFFER, (5,)),
    }
    bridge.load(served(bridge))
    assert (model.scale.item(), model.table.tolist()) == (3.0, [1, 2, 3, 4, 5])
    assert names(bridge.deltas()) == {"scale", "none"}


def test_a_delta_is_pulled_minus_local():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model[0].bias.requires_grad_(False)
    bridge = ModelBridge(model)
    pulled = served(bridge)
    bridge.load(pulled)
    with torch.no_grad():
        model[0].weight.sub_(0.25)
        model[1].running_mean.fill_(9.0)
    frame = received(bridge.deltas())
    assert torch.equal(tensor_of(frame, "0.weight"), tensor_of(pulled, "0.weight") - model[0].weight)
    assert torch.equal(tensor_of(frame, "1.bias"), torch.zeros(2))
    assert torch.equal(tensor_of(frame, "1.running_mean"), torch.full((2,), 9.0))
    assert "0.bias" not in {place.spec.name for place in frame.places}


def test_sparse_gradients_are_sent_dense():
    model = nn.Embedding(4, 2, sparse=True)
    bridge = ModelBridge(model)
    model(torch.tensor([1])).sum().backward()
    assert model.weight.grad.is_sparse
    expected = torch.zeros(4, 2)
    expected[1] = 1.0
    assert torch.equal(tensor_of(received(bridge.gradients()), "weight"), expected)


def test_the_memory_of_updates_is_one():
    model = nn.Linear(3, 2)
    bridge = ModelBridge(model)
    addresses = set()
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        (buffer,) = bridge.gradients().buffers
        addresses.add(np.frombuffer(buffer, np.uint8).ctypes.data)
    assert len(addresses) == 1
    assert addresses.pop() % 64 == 0
    assert np.frombuffer(bridge.allocate(100), np.uint8).ctypes.data % 64 == 0


def test_wrappers_are_left_out_of_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert ModelBridge(nn.DataParallel(model)).specs == ModelBridge(model).specs


def complex_model():
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.ReLU(), "the model has no parameters"),
        (nn.LazyLinear(3), "weight has no shape yet; run one forward pass"),
        (complex_model(), "weight is torch.complex64; what travels is float32"),
    ],
)
def test_modules_that_cannot_travel(model, words):
    with pytest.raises(ValueError, match=words):
        ModelBridge(model)


def test_nothing_to_push_is_told():
    model = nn.Linear(2, 2)
    bridge = ModelBridge(model)
    with pytest.raises(ValueError, match=r"call loss.backward\(\) before step\(\)"):
        bridge.gradients()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        bridge.deltas()


def test_another_model_on_the_server_is_told():
    bridge = ModelBridge(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"lack weight float32\[2,3\]"):
        bridge.load(served(ModelBridge(nn.ParameterDict({"bias": nn.Parameter(torch.zeros(2))}))))
    with pytest.raises(ValueError, match=r"the server has weight float32\[2,4\], and the model weight"):
        bridge.load(served(ModelBridge(nn.Linear(4, 2))))


def test_other_tensors_on_the_server_are_left_alone():
    model = nn.Linear(3, 2, bias=False)
    bridge = ModelBridge(model)
    bridge.load(served(ModelBridge(nn.Linear(3, 2)), lambda name, tensor: torch.full_like(tensor, 4.0)))
    assert (model.weight == 4.0).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_on_a_gpu():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).cuda()
    bridge = ModelBridge(model)
    pulled = served(bridge)
    bridge.load(pulled)
    assert torch.equal(model[0].weight.cpu(), tensor_of(pulled, "0.weight"))
    model(torch.ones(4, 3, device="cuda")).square().sum().backward()
    assert torch.equal(tensor_of(received(bridge.gradients()), "0.weight"), model[0].weight.grad.cpu())
    with torch.no_grad():
        model[0].weight.sub_(0.5)
    assert torch.equal(
        tensor_of(received(bridge.deltas()), "0.weight"),
        tensor_of(pulled, "0.weight") - model[0].weight.cpu(),
    )
