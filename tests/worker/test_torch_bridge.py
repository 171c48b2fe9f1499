"""A module's tensors to bodies and back."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind
from leeway.transport.channel import Tensors as WireTensors
from leeway.worker.torch_bridge import ModelBridge
from tests.worker.bridged import names, received, served, tensor_of


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
    frame = received(WireTensors(Layout.of(bridge.specs), bridge.values(Layout.of(bridge.specs))))
    assert torch.equal(tensor_of(frame, "weight"), model.weight)
    pulled = served(bridge)
    bridge.load(pulled)
    with torch.no_grad():
        model.weight.zero_()
    only_weight = Layout.of([spec for spec in bridge.specs if spec.name == "weight"])
    again = received(WireTensors(only_weight, bridge.values(only_weight)))
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


def test_load_writes_only_what_has_changed():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    bridge = ModelBridge(model)
    with torch.no_grad():
        model[0].bias.zero_()
    versions = {name: tensor._version for name, tensor in model.state_dict().items()}

    def change(name, tensor):
        # A zero with a sign is another value.
        return tensor + 1 if name == "0.weight" else -tensor if name == "0.bias" else tensor

    bridge.load(served(bridge, change))
    written = {name for name, tensor in model.state_dict().items() if tensor._version != versions[name]}
    assert written == {"0.weight", "0.bias"}
    assert torch.signbit(model[0].bias).all()


def test_parameters_beside_others():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[2].twin = nn.Parameter(model[1].bias.data)
    others = ModelBridge(model).others([*model[0].parameters(), model[2].weight, model[1].bias])
    assert {id(parameter) for parameter in others} == {id(model[1].weight), id(model[2].bias), id(model[2].twin)}


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
    frame = received(bridge.weights())
    assert torch.equal(tensor_of(frame, "0.weight"), model[0].weight)
    assert torch.equal(tensor_of(frame, "1.running_mean"), torch.full((2,), 9.0))
    assert "0.bias" not in {place.spec.name for place in frame.places}


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


# What the script changes of trained ones.


def test_a_change_that_is_lost_is_warned_of_once_by_name():
    model = nn.Linear(3, 2)
    bridge = ModelBridge(model)
    pulled = served(bridge)
    bridge.load(pulled)
    model(torch.ones(1, 3)).sum().backward()
    model.weight.data.clamp_(-0.01, 0.01)
    with pytest.warns(UserWarning, match="lost with the next pull: weight. A push of gradients") as warned:
        bridge.gradients()
    assert len(warned) == 1
    with torch.no_grad():
        model.bias.zero_()
    with pytest.warns(UserWarning, match="lost with the next pull: bias. A push"):
        bridge.gradients()
    bridge.gradients()
    bridge.deltas()


def test_local_steps_are_no_change_to_be_warned_of():
    model = nn.Linear(3, 2)
    bridge = ModelBridge(model)
    bridge.load(served(bridge))
    with torch.no_grad():
        model.weight.zero_()
    bridge.deltas()


def test_pulled_values_go_into_the_tensors_as_they_are_now():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    bridge = ModelBridge(model)
    bridge.load(served(bridge))
    old = model[0].weight
    model.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    model[1].running_mean = model[1].running_mean * 2
    bridge.load(served(bridge, lambda name, tensor: torch.full_like(tensor, 3)))
    assert all((tensor == 3).all() for tensor in model.state_dict().values())
    assert not (old == 3).any()
    model[0].weight.grad = torch.ones(2, 3)
    assert names(bridge.gradients()) == {spec.name for spec in bridge.specs} - {"0.bias", "1.weight", "1.bias"}


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


def test_a_buffer_that_is_a_view_of_a_parameter():
    model = nn.Linear(3, 2)
    model.register_buffer("alias", model.weight[:])
    bridge = ModelBridge(model)
    assert [spec.name for spec in bridge.specs] == ["weight", "bias"]
    bridge.load(served(bridge))
    model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(tensor_of(received(bridge.gradients()), "weight"), torch.ones(2, 3))
    bridge.forget_gradients()
    assert model.weight.grad is None


def test_a_part_of_the_model_is_chosen_by_its_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    assert {spec.name for spec in ModelBridge(model, keys=["0.*", "2.bias"]).specs} == {"0.weight", "0.bias", "2.bias"}
    chosen = ModelBridge(model, keys=["0.*", "1.*"], exclude="*.bias").specs
    assert {spec.name for spec in chosen} >= {"0.weight", "1.weight", "1.running_mean"}
    assert not [spec for spec in chosen if spec.name.endswith("bias") or spec.name.startswith("2")]


def test_a_part_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"keys: 'head\.\*' matches no parameter or buffer of the module; it has bias"):
        ModelBridge(nn.Linear(2, 2), keys=["weight", "head.*"])
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match="tied"):
        ModelBridge(model, keys="0.*")


# Parameters and buffers whose sign is in a bit of the view, and not in their memory.


def negative(requires_grad):
    value = torch.tensor([1.0 + 2.0j, 3.0 - 4.0j]).conj().imag
    assert value.is_neg()
    return nn.Parameter(value, requires_grad=requires_grad)


@pytest.mark.parametrize("update", ["gradients", "deltas"])
def test_a_view_with_its_sign_in_a_bit(update):
    model = nn.Module()
    model.trained, model.frozen = negative(True), negative(False)
    model.register_buffer("state", negative(False).data)
    bridge = ModelBridge(model)
    layout = Layout.of(bridge.specs)
    frame = received(WireTensors(layout, bridge.values(layout)))
    assert {tuple(tensor_of(frame, name).tolist()) for name in layout.places} == {(-2.0, 4.0)}
    bridge.load(served(bridge))
    for tensor in (model.trained, model.frozen, model.state):
        assert tensor.tolist() == [-1.0, 5.0]
        assert tensor.is_neg()
    for _ in range(3):
        model.trained.grad = torch.ones(2, dtype=torch.complex64).conj().imag + 1
        model.frozen.data.add_(1)
        model.state.add_(1)
        if update == "deltas":
            model.trained.data.sub_(1)
        frame = received(getattr(bridge, update)())
        assert tensor_of(frame, "trained").tolist() == [1.0, 1.0]
        assert torch.equal(tensor_of(frame, "frozen"), model.frozen)
        assert torch.equal(tensor_of(frame, "state"), model.state)
        bridge.load(served(bridge, lambda name, tensor: torch.full_like(tensor, 3)))
        assert (model.trained == 3).all()


# Warnings point at the line of whoever uses the package.


def test_a_buffer_that_requires_a_gradient_is_warned_of():
    model = nn.Linear(3, 2)
    model.register_buffer("scale", torch.ones(2, requires_grad=True))
    model.register_buffer("shift", torch.zeros(2, requires_grad=True))
    model.register_buffer("own", torch.zeros(2, requires_grad=True), persistent=False)
    model.register_buffer("alias", model.weight[:])
    words = r"requires a gradient is not trained: scale, shift. .*nn.Parameter; else requires_grad_\(False\)"
    with pytest.warns(UserWarning, match=words) as warned:
        ModelBridge(model)
    assert [warning.filename for warning in warned] == [__file__]
    ModelBridge(model, exclude=["scale", "shift"])


def test_a_warning_names_the_line_outside_of_the_package(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("def use(bridge):\n    bridge.gradients()\n")
    namespace = {"__name__": "script"}
    exec(compile(script.read_text(), str(script), "exec"), namespace)
    model = nn.Linear(3, 2)
    bridge = ModelBridge(model)
    bridge.load(served(bridge))
    model(torch.ones(1, 3)).sum().backward()
    model.weight.data.zero_()
    with pytest.warns(UserWarning, match="lost with the next pull") as warned:
        namespace["use"](bridge)
    assert [(warning.filename, warning.lineno) for warning in warned] == [(str(script), 2)]


def test_a_body_that_was_interrupted_while_it_was_laid_out(monkeypatch):
    """Two parameters that are pushed in turns: the names are those of the layout, whatever came in between."""
    model = nn.Module()
    model.a, model.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    bridge = ModelBridge(model)
    bridge.load(served(bridge))

    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    for name in ("a", "b", "a"):
        getattr(model, name).grad = torch.ones(2)
        for where in ("_view", "new_block"):
            with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
                patched.setattr(f"leeway.worker.modules.bodies.{where}", interrupt)
                bridge.gradients()
        assert names(bridge.gradients()) == {name}
        bridge.forget_gradients()
