"""A model as layers: their order, their names, what each has."""

import pytest
import torch
from torch import nn

from leeway.worker.pipeline.layers import Layers
from leeway.worker.torch_bridge import ModelBridge
from tests.worker.pipeline.models import Transformer, kinds, on_meta


def names(layers):
    return [layer.name for layer in layers.layers]


@pytest.mark.parametrize("name", kinds())
def test_specs_are_those_of_the_whole_model_on_the_meta_device_too(name):
    kind = kinds()[name]
    bridge = ModelBridge(kind.make())
    for model in (kind.make(), on_meta(kind.make)()):
        layers = Layers(model)
        assert layers.specs == bridge.specs
        assert {key: found[1:] for key, found in layers.names.items() if found[1:]} == bridge.aliases
        assert {key for layer in layers.layers for key in layer.keys} == {spec.name for spec in bridge.specs}


def test_children_of_a_sequential_and_modules_of_a_list():
    modules = [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)]
    for model in (nn.Sequential(*modules), modules, tuple(modules), nn.ModuleList(modules)):
        layers = Layers(model)
        assert names(layers) == ["0", "1", "2"]
        assert [layer.module for layer in layers.layers] == modules
        assert [layer.keys for layer in layers.layers] == [("0.weight", "0.bias"), (), ("2.weight", "2.bias")]


def test_blocks_in_the_order_in_which_they_run():
    assert names(Layers(Transformer())) == ["embedding", "blocks.0", "blocks.1", "norm", "head"]
    blocks = ["embedding", "blocks.[01]", "norm", "head"]
    assert names(Layers(Transformer(), blocks)) == ["embedding", "blocks.0", "blocks.1", "norm", "head"]


def test_a_pattern_s_star_is_one_part_of_a_path():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))})
    assert names(Layers(model, "*")) == ["a"]
    assert names(Layers(model, "a.*")) == ["a.0", "a.1"]


def test_a_tied_key_is_in_both_layers_and_the_first_that_runs_owns_it():
    layers = Layers(Transformer())
    assert layers.names["head.weight"] == ("head.weight", "embedding.tokens.weight")
    assert layers.holders["head.weight"] == (0, 4)
    assert "head.weight" in layers.layers[0].keys


def test_one_module_in_two_places():
    shared = nn.Linear(3, 3)
    layers = Layers(nn.Sequential(shared, nn.ReLU(), shared))
    assert layers.holders == {"0.weight": (0, 2), "0.bias": (0, 2)}


def test_a_buffer_outside_of_the_state_dict_may_be_in_several():
    class Masked(nn.Module):
        def __init__(self, mask):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("mask", mask, persistent=False)

    mask = torch.ones(2)
    assert len(Layers([Masked(mask), Masked(mask)])) == 2


class Loose(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.body = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))


class OwnForward(nn.Sequential):
    def forward(self, inputs):
        return inputs + super().forward(inputs)


def with_shared_statistics():
    norm = nn.BatchNorm1d(2)
    return [nn.Sequential(nn.Linear(2, 2), norm), nn.Sequential(nn.Linear(2, 2), norm)]


def tied_by_memory():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight.data = first.weight.data
    return [first, second]


def overlapping():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.bias = nn.Parameter(first.weight.data[0])
    return [first, second]


@pytest.mark.parametrize(
    ("make", "blocks", "words"),
    [
        (lambda: nn.Linear(1, 1), None, r"Linear is no plain nn\.Sequential .* blocks=.* pipeline_blocks"),
        (lambda: OwnForward(nn.Linear(1, 1)), None, "OwnForward is no plain"),
        (lambda: [nn.Linear], None, "a list of those"),
        (list, None, "no layers"),
        (lambda: nn.Sequential(nn.ReLU()), None, "no parameters"),
        (Loose, ["body.*"], r"scale is in none of the blocks \(body\.0, body\.1\); name the block"),
        (Loose, ["body.0"], r"body\.1\.weight is in none|scale is in none"),
        (Loose, ["layers.*"], r"'layers\.\*' matches no module of the model; it has body"),
        (Loose, ["body", "body.0"], r"body\.0 and body are within one another"),
        (Loose, ["body.0", "body.*"], r"body\.0 is named twice"),
        (with_shared_statistics, None, r"0\.1\.running_mean is a buffer of 0 and 1.* one block"),
        (tied_by_memory, None, r"0\.weight is tied between 0 and 1 by its memory alone; tie them as one Parameter"),
        (overlapping, None, r"0\.weight and 1\.bias have elements in common"),
        (lambda: [nn.LazyLinear(2)], None, r"0\.weight has no shape yet"),
        (lambda: [nn.Linear(2, 2, dtype=torch.complex64)], None, r"0\.weight is torch\.complex64"),
        (
            lambda: nn.DataParallel(nn.Sequential(nn.Linear(1, 1))),
            ["module.0"],
            r"module\.0 is within a wrapper; give the model that is wrapped",
        ),
    ],
)
def test_a_model_that_cannot_be_taken_apart_is_refused_by_name(make, blocks, words):
    with pytest.raises(ValueError, match=words):
        Layers(make(), blocks)
