"""The module's tensors by name, at each step."""

import re
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn

from leeway.protocol.tensors import Kind
from leeway.worker.modules.view import View


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(3))


def changed(view, words):
    with pytest.raises(ValueError, match=words):
        view.look()


# What is well defined is taken as it is now.


def test_a_buffer_that_the_module_assigns_anew():
    model = Counting()
    view = View(model)
    model.count = model.count + 1
    model.mean = torch.ones(3)
    tensors = view.look().by_key
    assert tensors["count"] is model.count
    assert tensors["mean"] is model.mean


def test_another_object_of_the_same_name_shape_and_dtype():
    model = Counting()
    view = View(model)
    model.load_state_dict({name: tensor + 1 for name, tensor in model.state_dict().items()}, assign=True)
    assert view.look().by_key["inner.weight"] is model.inner.weight
    model.inner.weight = nn.Parameter(torch.full((2, 3), 7.0))
    assert view.look().by_key["inner.weight"] is model.inner.weight
    model.inner.weight.data = torch.full((2, 3), 8.0)
    assert (view.look().by_key["inner.weight"] == 8.0).all()
    model.inner = nn.Linear(3, 2)
    assert view.look().by_key["inner.bias"] is model.inner.bias


def test_another_layout_of_the_same_shape():
    model = nn.Conv2d(3, 4, 3)
    view = View(model)
    model.to(memory_format=torch.channels_last)
    assert view.look().by_key["weight"].shape == (4, 3, 3, 3)


# What is not is told by name, before anything is sent.


def replace_layer(model):
    model[1] = nn.Linear(2, 5)


def add_layer(model):
    model.append(nn.Linear(2, 2))


def remove_layer(model):
    del model[1]


def add_lora(model):
    model[0].lora = nn.Linear(3, 1, bias=False)


def parametrize(model):
    nn.utils.parametrizations.weight_norm(model[0])


def drop_bias(model):
    model[0].bias = None


def as_buffer(model):
    bias = model[0].bias.detach()
    del model[0].bias
    model[0].register_buffer("bias", bias)


def grow(model):
    model[0].bias.data = torch.zeros(9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replace_layer, r"1\.weight was float32\[4,2\] and is float32\[5,2\]; 1\.bias was .* put it back"),
        (add_layer, r"2\.weight float32\[2,2\] is new; 2\.bias .* before that"),
        (remove_layer, r"1\.weight float32\[4,2\] is gone"),
        (add_lora, r"0\.lora\.weight float32\[1,3\] is new"),
        (
            parametrize,
            r"0\.weight float32\[2,3\] is gone; 0\.parametrizations\.weight\.original0 float32\[2,1\] is new",
        ),
        (drop_bias, r"0\.bias float32\[2\] is gone"),
        (as_buffer, r"0\.bias was float32\[2\] and is float32\[2\] \(trainable, now float-buffer\)"),
        (grow, r"0\.bias was float32\[2\] and is float32\[9\]"),
        (lambda model: model.double(), r"0\.weight was float32\[2,3\] and is float64\[2,3\].*autocast"),
        (lambda model: model.to("meta"), r"0\.weight was float32\[2, 3\] .* is on the meta device"),
        (lambda model: model[0].weight.untyped_storage().resize_(0), r"0\.weight was .* and now has no memory"),
        (lambda model: model[0].register_buffer("mask", torch.zeros(2)), r"0\.mask float32\[2\] is new"),
    ],
)
def test_a_change_is_told_until_it_is_put_back(change, words):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))
    view = View(model)
    modules = dict(model._modules)
    inner = [(dict(module._modules), dict(module._parameters), dict(module._buffers)) for module in model]
    data = [parameter.data.clone() for parameter in model.parameters()]
    parameters = list(model.parameters())
    change(model)
    changed(view, words)
    changed(view, words)
    model._modules.clear()
    model._modules.update(modules)
    for module, (children, weights, buffers) in zip(model, inner, strict=True):
        for own, before in (
            (module._modules, children),
            (module._parameters, weights),
            (module._buffers, buffers),
        ):
            own.clear()
            own.update(before)
    for parameter, values in zip(parameters, data, strict=True):
        parameter.data = values
    assert list(view.look().by_key) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_buffer_that_does_not_travel_may_come_and_go():
    model = Counting()
    view = View(model)
    model.register_buffer("cache", torch.zeros(5), persistent=False)
    assert "cache" not in view.look().by_key
    model.cache = torch.zeros(7)
    view.look()


# Ties.


def two_layers():
    return nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))


def same_object(model):
    model[1].weight = model[0].weight


def same_data(model):
    model[1].weight.data = model[0].weight.data


def a_view(model):
    model[1].weight = nn.Parameter(model[0].weight.detach()[:])


@pytest.mark.parametrize("tie", [same_object, same_data, a_view])
def test_tied_is_what_has_the_same_elements(tie):
    model = two_layers()
    tie(model)
    view = View(model)
    assert [spec.name for spec in view.specs] == ["0.weight"]
    assert view.aliases == {"0.weight": ("1.weight",)}
    objects = {id(parameter) for parameter in (model[0].weight, model[1].weight)}
    assert {id(tensor) for tensor in view.look().of("0.weight")} == objects


def test_buffers_are_tied_likewise():
    model = two_layers()
    model.register_buffer("a", torch.zeros(4))
    model.register_buffer("b", model.a[:])
    model.register_buffer("shadow", model[0].weight.data)
    assert [spec.name for spec in View(model).specs] == ["0.weight", "1.weight", "a"]


def test_a_tie_that_is_broken_or_made_later_is_told():
    model = two_layers()
    same_data(model)
    view = View(model)
    model[1].weight.data = model[0].weight.data.clone()
    changed(view, r"0\.weight and 1\.weight were the same tensor .* are two now; tie them again")
    same_data(model)
    view.look()
    free = two_layers()
    view = View(free)
    same_object(free)
    changed(view, r"0\.weight and 1\.weight were two tensors .* are the same now")


@pytest.mark.parametrize(
    "part",
    [lambda weight: weight.t(), lambda weight: weight[0], lambda weight: weight[:, 1:], lambda weight: weight.view(9)],
)
def test_elements_in_common_otherwise_are_refused_by_name(part):
    model = two_layers()
    model.tail = nn.Parameter(part(model[0].weight.detach()))
    words = r"(0\.weight and tail|tail and 0\.weight) have elements in common.*clone\(\)"
    with pytest.raises(ValueError, match=words):
        View(model)
    # Also when it becomes so later.
    model = two_layers()
    model.tail = nn.Parameter(part(model[0].weight.detach()).clone())
    view = View(model)
    model.tail.data = part(model[0].weight.data)
    changed(view, words)


def test_a_storage_in_common_is_no_tie():
    model = nn.LSTM(3, 4, num_layers=2)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    offset = 0
    for parameter in model.parameters():
        parameter.data = flat[offset : offset + parameter.numel()].view_as(parameter)
        offset += parameter.numel()
    assert len(View(model).specs) == 8
    model = nn.Module()
    both = torch.zeros(4, 6)
    model.left, model.right = nn.Parameter(both[:, :3]), nn.Parameter(both[:, 3:])
    model.none, model.nothing = nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(0))
    assert [spec.name for spec in View(model).specs] == ["left", "right", "none", "nothing"]


# What stays at home.


def test_exclude_takes_names_and_patterns():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    view = View(model, ["0.bias", "1.running_*", "2.*"])
    assert [spec.name for spec in view.specs] == ["0.weight", "1.weight", "1.bias", "1.num_batches_tracked"]
    assert [spec.name for spec in View(model, "[12].*").specs] == ["0.weight", "0.bias"]
    # What is excluded may change, and come and go.
    model[2] = nn.Linear(2, 7, bias=False)
    assert "2.weight" not in view.look().by_key


@pytest.mark.parametrize(
    ("exclude", "words"),
    [
        (["head.*"], r"exclude: 'head\.\*' matches no parameter or buffer of the module; it has 0\.weight, 1\.weight"),
        ("*", "no parameters, or all are excluded"),
    ],
)
def test_exclude_that_makes_no_sense(exclude, words):
    with pytest.raises(ValueError, match=words):
        View(two_layers(), exclude)


@pytest.mark.parametrize("name", ["x[0]", "x[!a]", "x*", "x?", "[x]"])
@pytest.mark.parametrize("argument", ["exclude", "keys"])
def test_a_name_in_full_means_itself(name, argument):
    """Also where it is a pattern of others: `x[0]` would be `x0`."""
    model = nn.Module()
    model.rest = nn.Linear(1, 1, bias=False)
    model.p = nn.ParameterDict({key: torch.zeros(2) for key in (name, "x0", "xb", "x")})
    chosen = {f"p.{name}"} if argument == "keys" else {"p.x0", "p.xb", "p.x", "rest.weight"}
    view = View(model, **{argument: f"p.{name}"})
    assert {spec.name for spec in view.specs} == chosen
    # As it was at attach, whatever comes and goes.
    if argument == "keys":
        del model.p["x0"]
    else:
        del model.p[name]
    assert set(view.look().by_key) == chosen
    # Where there is no such name it is a pattern.
    model = nn.Module()
    model.rest = nn.Linear(1, 1, bias=False)
    model.p = nn.ParameterDict({key: torch.zeros(2) for key in ("x0", "xb", "x", "y")})
    if name == "[x]":
        name = "[xy]"
    assert {spec.name for spec in View(model, **{argument: f"p.{name}"}).specs} == {
        key
        for key in ("p.x0", "p.xb", "p.x", "p.y", "rest.weight")
        if fnmatchcase(key, f"p.{name}") is (argument == "keys")
    }


def test_the_remedy_that_an_error_names_works():
    model = nn.Module()
    model.p = nn.ParameterDict({"x[0]": torch.zeros(1, dtype=torch.complex64), "y": torch.zeros(1)})
    with pytest.raises(ValueError, match="exclude=") as error:
        View(model)
    exclude = re.search(r"exclude=\['(.*)'\]", str(error.value)).group(1)
    assert [spec.name for spec in View(model, exclude=[exclude]).specs] == ["p.y"]


def test_tensors_that_share_memory_but_not_the_sign_are_not_tied():
    model = nn.Module()
    value = torch.zeros(2, dtype=torch.complex64)
    model.a, model.b = nn.Parameter(value.imag), nn.Parameter(value.conj().imag)
    with pytest.raises(ValueError, match="a and b have elements in common"):
        View(model)


def test_half_of_a_tie_cannot_be_excluded():
    model = two_layers()
    same_data(model)
    with pytest.raises(ValueError, match=r"1\.weight is excluded and tied to 0\.weight, which is not"):
        View(model, "1.*")


def test_kinds():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model.table = nn.Parameter(torch.arange(5), requires_grad=False)
    kinds = {spec.name: spec.kind for spec in View(model).specs}
    assert kinds["0.weight"] is Kind.TRAINABLE
    assert kinds["1.running_mean"] is Kind.FLOAT_BUFFER
    assert kinds["table"] is kinds["1.num_batches_tracked"] is Kind.INTEGER_BUFFER


def test_one_of_many_that_gets_another_memory_is_compared_with_all():
    model = nn.ModuleList([nn.Linear(3, 3) for _ in range(30)])
    view = View(model)
    model[7].weight = nn.Parameter(torch.zeros(3, 3))
    view.look()
    model[7].weight = nn.Parameter(model[21].weight.detach())
    changed(view, r"7\.weight and 21\.weight were two tensors")
    model[7].weight = nn.Parameter(torch.zeros(3, 3))
    view.look()
    # Without elements in common it may reach into another's stretch.
    both = torch.zeros(3, 6)
    model[7].weight, model[8].weight = nn.Parameter(both[:, :3]), nn.Parameter(both[:, 3:])
    view.look()
    model[9].weight = nn.Parameter(both[:, 1:4])
    changed(view, r"have elements in common")


@pytest.mark.parametrize("model", [None, "x", [nn.Linear(1, 1)], nn.Linear, 3], ids=str)
def test_what_is_no_module_is_told(model):
    with pytest.raises(ValueError, match=r"^model is a .*, it must be a torch\.nn\.Module"):
        View(model)


@pytest.mark.parametrize("argument", ["exclude", "keys"])
@pytest.mark.parametrize("value", [3, [3], b"l", object, ["weight", None]], ids=str)
def test_what_is_no_pattern_is_told(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument} is .*, it must be a name or pattern"):
        View(nn.Linear(1, 1), **{argument: value})
