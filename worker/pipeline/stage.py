"""One stage of a pipeline: its layers, and the module that holds them alone, under the names of the whole model.

The one rule: the same (model, seed) gives the same initial values in any cut, bit by bit. A tied tensor has the values
that its first layer gives it, wherever that layer is.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

import torch
from torch import nn

from leeway.worker.module_names import find
from leeway.worker.module_names import names as names_of
from leeway.worker.pipeline.cut import check, parts
from leeway.worker.pipeline.layers import SHOWN_NAMES, tensors_of
from leeway.worker.pipeline.realising import clear, realise, wholly

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from leeway.worker.pipeline.cut import Cut
    from leeway.worker.pipeline.layers import Layer, Layers

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Tie:
    """A key that several stages have. `owner`: the first of `stages`; it pushes the sum of all their gradients."""

    key: str
    parameter: nn.Parameter
    owner: int
    stages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage `number` of `count`. `module`: what is pulled and pushed of it (a `ModelBridge` of it has the keys of the
    whole model); it is not called, `layers` are, in order. `ties`: the keys that it has in common with other stages."""

    number: int
    count: int
    module: nn.Module
    layers: tuple[Layer, ...]
    ties: tuple[Tie, ...]

    @property
    def first(self) -> bool:
        return self.number == 0

    @property
    def last(self) -> bool:
        return self.number == self.count - 1


def build(
    layers: Layers, sizes: Cut, number: int, seed: int, *, init: bool = False, device: torch.device = _CPU
) -> Stage:
    """Make stage `number` of the cut `sizes` (layers of each stage).

    Layers on the meta device become real here, one by one; others keep their values and their device. Of the other
    layers nothing is kept, so that they can be freed with the model. `init`: initial values will come from elsewhere,
    so that a parameter or persistent buffer needs no `reset_parameters`.
    Raises `ValueError` for a stage that is not in the cut, and for values that nothing sets.
    """
    count = len(sizes)
    check(sizes, len(layers), count)
    if not 0 <= number < count:
        raise ValueError(f"stage {number} is not one of {count}: they are numbered from 0 to {count - 1}")
    bounds = parts(sizes)
    chosen = layers.layers[slice(*bounds[number])]
    with wholly(layer.module for layer in chosen):
        _realise(layers, chosen, seed, init, device)
    stage_of = [stage for stage, bound in enumerate(bounds) for _ in range(*bound)]
    ties = []
    for key in dict.fromkeys(key for layer in chosen for key in layer.keys):
        stages = tuple(dict.fromkeys(stage_of[index] for index in layers.holders[key]))
        if len(stages) > 1:
            parameter = _tensor(layers, chosen, key)
            assert isinstance(parameter, nn.Parameter), key
            ties.append(Tie(key, parameter, stages[0], stages))
    return Stage(number, count, _module(layers, chosen), chosen, tuple(ties))


def _realise(layers: Layers, chosen: Sequence[Layer], seed: int, init: bool, device: torch.device) -> None:
    values = _from_other_layers(layers, chosen, seed, init, device)
    for layer in chosen:
        realised = realise(layer.module, seed, layer.index, device, values)
        tied = {id(realised.made[key]) for key in realised.made.keys() & values.keys()}
        own = {path: tensor for path, tensor in realised.unset.items() if id(tensor) not in tied}
        _judge(layer, own, init)
        values = {**realised.made, **values}


def _from_other_layers(
    layers: Layers, chosen: Sequence[Layer], seed: int, init: bool, device: torch.device
) -> dict[int, torch.Tensor]:
    """The tensors whose values a layer of another stage gives, by the id of that on the meta device.

    Such a layer is made for a moment, as a copy.
    """
    ours = {layer.index for layer in chosen}
    wanted: dict[int, dict[int, str]] = {}
    for layer in chosen:
        for _, tensor in tensors_of(layer.module):
            if tensor.is_meta and layers.firsts[id(tensor)][0] not in ours:
                index, path, _ = layers.firsts[id(tensor)]
                wanted.setdefault(index, {})[id(tensor)] = path
    values = {}
    for index, paths in wanted.items():
        other = layers.layers[index]
        copy = deepcopy(other.module)
        unset = realise(copy, seed, index, device).unset
        _judge(other, {path: unset[path] for path in paths.values() if path in unset}, init)
        values.update({key: find(copy, path) for key, path in paths.items()})
    return values


def _judge(layer: Layer, unset: Mapping[str, torch.Tensor], init: bool) -> None:
    """Refuse what has no values and gets none, else clear it until they come."""
    if not unset:
        return
    persistent = set(names_of(layer.module).values())
    at_home = [path for path in unset if path not in persistent]
    remedy = "give their module a reset_parameters that sets them, or build the model with values"
    if at_home:
        why = f"no file of initial values has them (persistent=False); {remedy}"
        raise ValueError(f"nothing sets the values of {_names(layer, at_home)}: {why}")
    if not init:
        why = f"needs --init: give a file of initial values; or {remedy}"
        raise ValueError(f"nothing sets the values of {_names(layer, list(unset))}: {why}")
    for tensor in unset.values():
        clear(tensor)


def _names(layer: Layer, paths: Sequence[str]) -> str:
    more = f" and {len(paths) - SHOWN_NAMES} more" if len(paths) > SHOWN_NAMES else ""
    return ", ".join(f"{layer.name}.{path}" for path in paths[:SHOWN_NAMES]) + more


def _module(layers: Layers, chosen: Sequence[Layer]) -> nn.Module:
    """The layers under their paths, in the order of the whole model. A key whose first name is in none of them is under
    that name all the same, alone in its module."""
    held = {key for layer in chosen for key in layer.keys}
    inside = tuple(f"{layer.name}." for layer in chosen)
    elsewhere = [key for key in layers.names if key in held and not layers.paths[key].startswith(inside)]
    puts: list[tuple[int, str, nn.Module | torch.Tensor]] = [
        *((layers.places[layer.name], layer.name, layer.module) for layer in chosen),
        *((layers.places[_parent(layers.paths[key])], key, _tensor(layers, chosen, key)) for key in elsewhere),
    ]
    root = nn.Module()
    for _, path, content in sorted(puts, key=itemgetter(0)):
        container = _container(root, _parent(path))
        own = path.rpartition(".")[2]
        if isinstance(content, nn.Module):
            container.add_module(own, content)
        elif isinstance(content, nn.Parameter):
            container.register_parameter(own, content)
        else:
            container.register_buffer(own, content)
    return root


def _tensor(layers: Layers, chosen: Sequence[Layer], key: str) -> torch.Tensor:
    """What these layers have under one of the names of a key."""
    for name in layers.names[key]:
        for layer in chosen:
            if layers.paths[name].startswith(f"{layer.name}."):
                return find(layer.module, layers.paths[name].removeprefix(f"{layer.name}."))
    raise AssertionError(key)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _container(root: nn.Module, path: str) -> nn.Module:
    for name in path.split(".") if path else ():
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    return root
