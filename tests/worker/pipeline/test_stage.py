"""One stage's module: its keys, its initial values, what it keeps alive."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from leeway.worker.pipeline.layers import Layers
from leeway.worker.pipeline.stage import build
from leeway.worker.torch_bridge import ModelBridge
from tests.worker.pipeline.models import Transformer, kinds, on_meta
from tests.worker.pipeline.near import exactly


def cuts(count):
    """Every cut of so many layers into up to three stages."""
    yield (count,)
    for first in range(1, count):
        yield first, count - first
        for second in range(1, count - first):
            yield first, second, count - first - second


@pytest.mark.parametrize("name", kinds())
def test_keys_and_values_are_those_of_the_whole_model_in_every_cut(name):
    kind = kinds()[name]
    whole = build(Layers(on_meta(kind.make)()), (len(Layers(kind.make())),), 0, 3)
    specs = ModelBridge(kind.make()).specs
    assert ModelBridge(whole.module).specs == specs
    values = whole.module.state_dict()
    for sizes in cuts(len(whole.layers)):
        for number in range(len(sizes)):
            stage = build(Layers(on_meta(kind.make)()), sizes, number, 3)
            keys = {key for layer in stage.layers for key in layer.keys}
            assert len(stage.layers) == sizes[number]
            if keys:
                assert ModelBridge(stage.module).specs == tuple(spec for spec in specs if spec.name in keys)
            mine = stage.module.state_dict()
            assert exactly(mine, {key: values[key] for key in mine})


def test_values_depend_on_the_seed_and_are_those_that_torch_would_draw():
    torch.manual_seed(0)
    one, two = (build(Layers(on_meta(Transformer)()), (5,), 0, seed).module for seed in (1, 2))
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(one.head.weight, two.head.weight)
    built = Transformer()
    for name, tensor in built.state_dict().items():
        drawn = one.state_dict()[name]
        assert drawn.mean().item() == pytest.approx(tensor.mean().item(), abs=0.35)
        assert (drawn == 0).all() == (tensor == 0).all(), name  # the bias of attention's out_proj, for one
        assert (drawn == 1).all() == (tensor == 1).all(), name


def test_ties_name_the_stages_and_the_owner():
    sizes = (1, 3, 1)
    stages = [build(Layers(on_meta(Transformer)()), sizes, number, 3) for number in range(3)]
    for stage in (stages[0], stages[2]):
        (tie,) = stage.ties
        assert (tie.key, tie.owner, tie.stages) == ("head.weight", 0, (0, 2))
    assert stages[0].ties[0].parameter is stages[0].module.embedding.tokens.weight
    assert stages[0].module.head.weight is stages[0].module.embedding.tokens.weight
    assert stages[2].ties[0].parameter is stages[2].layers[-1].module.weight
    assert not stages[1].ties
    assert not build(Layers(on_meta(Transformer)()), (5,), 0, 3).ties


def test_one_module_in_two_stages():
    def make():
        shared = nn.Linear(3, 3)
        return nn.Sequential(shared, nn.ReLU(), shared)

    whole = build(Layers(on_meta(make)()), (3,), 0, 3).module.state_dict()
    second = build(Layers(on_meta(make)()), (1, 2), 1, 3)
    assert [spec.name for spec in ModelBridge(second.module).specs] == ["0.weight", "0.bias"]
    assert torch.equal(second.layers[-1].module.weight, whole["0.weight"])
    assert [tie.key for tie in second.ties] == ["0.weight", "0.bias"]


def test_real_layers_keep_their_values():
    model = Transformer()
    values = copy.deepcopy(model.state_dict())
    for number in range(2):
        stage = build(Layers(model), (2, 3), number, 3)
        mine = stage.module.state_dict()
        assert exactly(mine, {key: values[key] for key in mine})


def test_layers_of_other_stages_are_not_kept_alive():
    model = Transformer()
    others = [weakref.ref(layer) for layer in (model.blocks[1], model.norm, model.head)]
    stage = build(Layers(model), (2, 3), 0, 3)
    del model
    gc.collect()
    assert [other() for other in others] == [None] * 3
    assert stage.layers[1].name == "blocks.0"


def test_layers_of_other_stages_stay_on_the_meta_device():
    model = on_meta(Transformer)()
    build(Layers(model), (1, 3, 1), 2, 3)
    real = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.is_meta}
    assert real == {"head.weight"}


class Bare(nn.Module):
    """Nothing sets its values after it was made."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.ones(2, dtype=torch.bool))


class Half(Bare):
    """Its reset forgets some."""

    def reset_parameters(self):
        with torch.no_grad():
            self.weight[:2] = 0.0
        self.scale.data.fill_(1.0)
        self.steps.zero_()
        self.mask.fill_(True)


class AtHome(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("table", torch.arange(4.0), persistent=False)


class Replacing(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

    def reset_parameters(self):
        self.weight = nn.Parameter(torch.zeros(2, 2))


class Small(nn.Module):
    """It has no tensors of its own, and sets those of its part."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 20)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.table.weight, std=0.01)


class Smaller(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleList([Small(), nn.Dropout()])
        self.reset_parameters()

    def reset_parameters(self):
        with torch.no_grad():
            self.inner[0].table.weight *= 0.1


@pytest.mark.parametrize(("make", "deviation"), [(Small, 0.01), (Smaller, 0.001)])
def test_a_block_sets_the_values_of_its_parts(make, deviation):
    stage = build(Layers([on_meta(make)(), nn.Linear(2, 2)]), (1, 1), 0, 3)
    (weight,) = stage.module.parameters()
    assert weight.std().item() == pytest.approx(deviation, rel=0.1)


def refused(make, words, **arguments):
    layers = Layers([on_meta(make)(), nn.Linear(2, 2)])
    with pytest.raises(ValueError, match=words):
        build(layers, (1, 1), 0, 3, **arguments)


def test_values_that_nothing_sets_are_noticed():
    refused(Bare, r"values of 0\.weight, 0\.scale, 0\.steps, 0\.mask: needs --init: .* reset_parameters")
    refused(Half, r"values of 0\.weight: needs --init")
    refused(AtHome, r"values of 0\.table: no file .*persistent=False.* reset_parameters")
    refused(Replacing, r"weight: reset_parameters puts another object in its place; let it write in place")


def test_with_a_file_of_initial_values_only_what_it_cannot_have_needs_a_reset():
    for make in (Bare, Half):
        module = build(Layers([on_meta(make)()]), (1,), 0, 3, init=True).module
        assert all(not tensor.isnan().any() for tensor in module.state_dict().values())
    refused(AtHome, r"values of 0\.table: no file of initial values has them .*persistent=False", init=True)


def test_a_tied_value_that_nothing_sets_is_noticed_where_its_first_layer_is_elsewhere():
    def make():
        first = Bare()
        second = nn.Linear(3, 1, bias=False)
        second.weight = first.weight
        return [first, second]

    with pytest.raises(ValueError, match=r"values of 0\.weight: needs --init"):
        build(Layers(on_meta(make)()), (1, 1), 1, 3)


def test_real_values_among_those_on_the_meta_device_are_kept():
    model = on_meta(lambda: nn.Sequential(nn.Linear(2, 2)))()
    model[0].bias = nn.Parameter(torch.full((2,), 7.0))
    module = build(Layers(model), (1,), 0, 3).module
    assert torch.equal(module.get_submodule("0").bias, torch.full((2,), 7.0))
    assert not module.get_submodule("0").weight.isnan().any()


def test_what_a_parameter_is_told_of_stays_with_it():
    model = on_meta(lambda: nn.Sequential(nn.Linear(2, 2)))()
    model[0].bias.requires_grad_(False)
    model[0].weight.no_decay = True
    made = build(Layers(model), (1,), 0, 3).module.get_submodule("0")
    assert not made.bias.requires_grad
    assert made.weight.no_decay


def test_stages_and_cuts_that_do_not_fit():
    layers = Layers([nn.Linear(2, 2), nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="stage 2 is not one of 2: they are numbered from 0 to 1"):
        build(layers, (1, 1), 2, 3)
    refusals = {(1, 2): "has 3 layers, and the model 2", (2, 0): "without layers", (1, 1, 1): "3 stages"}
    for sizes, words in refusals.items():
        with pytest.raises(ValueError, match=words):
            build(layers, sizes, 0, 3)


def test_a_dense_layout_is_kept_and_any_other_made_dense():
    class Laid(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
            self.register_buffer("ids", torch.arange(3).expand(4, 3))

        def reset_parameters(self):
            self.ids.copy_(torch.arange(3).expand(4, 3))

    layer = build(Layers([on_meta(Laid)()]), (1,), 0, 3).layers[0].module
    assert layer.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert layer.ids.is_contiguous()
    assert layer.ids.tolist() == [[0, 1, 2]] * 4
