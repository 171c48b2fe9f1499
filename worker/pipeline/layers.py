"""A model as an ordered list of layers, with the names, specs and ties that the whole model has.

The one rule: every parameter and persistent buffer is in a layer; in several only if it is one `Parameter` (tied). The
names, the specs and their order are those that `ModelBridge` gives for the whole model, also while it is on the meta
device.

What a layer takes is what the one before it gave, as one argument, as in `nn.Sequential`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

from leeway.worker.module_names import find
from leeway.worker.module_names import names as names_of
from leeway.worker.modules.elements import Elements, overlap
from leeway.worker.modules.travel import fault, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import torch

    from leeway.protocol.tensors import TensorSpec

Model: TypeAlias = "nn.Module | Sequence[nn.Module]"

# How many names an error lists.
SHOWN_NAMES = 6


@dataclass(frozen=True, slots=True)
class Layer:
    """One block of the model. `name`: its path there; `keys`: of its tensors on the wire, tied ones included."""

    index: int
    name: str
    module: nn.Module
    keys: tuple[str, ...]


class Layers:
    """The layers of a model.

    `model`: an `nn.Sequential` (its children are the layers), a list of modules, or any module with `blocks`, names or
    patterns as a shell has them (`*` stands for one part of a path: `layers.*`), in the order in which they run; the
    attribute `pipeline_blocks` of the model says the same.

    `specs`: of all keys, in the order of the whole model; `names`: of each key, all of its names, itself first;
    `holders`: of each key the layers that have it, ascending; the first of them owns it. `paths`: where each name is in
    the model, wrappers included; `places`: of its modules, by path.
    Raises `ValueError` for a model that cannot be taken apart so.
    """

    def __init__(self, model: Model, blocks: str | Iterable[str] | None = None) -> None:
        root = _root(model)
        paths = _paths(root, blocks)
        named = names_of(root)
        tensors = {name: find(root, path) for name, path in named.items()}
        for name, tensor in tensors.items():
            if why := fault(tensor, on_meta=True):
                raise ValueError(f"{name} {why}")
        self.names = _tied(tensors)
        self.holders = {key: _holders(key, names, named, paths) for key, names in self.names.items()}
        for key, holders in self.holders.items():
            if len(holders) > 1:
                _check_tie(key, [paths[index] for index in holders], [tensors[name] for name in self.names[key]])
        if not any(isinstance(tensor, nn.Parameter) for tensor in tensors.values()):
            raise ValueError("the model has no parameters; give the model that is trained")
        self.specs: tuple[TensorSpec, ...] = tuple(spec_of(key, tensors[key], on_meta=True) for key in self.names)
        self.layers = tuple(
            Layer(index, path, root.get_submodule(path), tuple(key for key in self.names if index in self.holders[key]))
            for index, path in enumerate(paths)
        )
        # Where the tensor of each object is first, buffers that stay at home included: that layer decides its values.
        # By the id of the object, with the object: an id is one's only while that lives.
        self.firsts: dict[int, tuple[int, str, torch.Tensor]] = {}
        for layer in self.layers:
            for path, tensor in tensors_of(layer.module):
                self.firsts.setdefault(id(tensor), (layer.index, path, tensor))
        # Where each module of the model stands in it, which may be another order than that in which the blocks run.
        self.places = {path: place for place, (path, _) in enumerate(root.named_modules(remove_duplicate=False))}
        self.paths = named

    def __len__(self) -> int:
        return len(self.layers)


def tensors_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter and buffer of a module, also those outside the `state_dict`, with its path; tied ones once."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _root(model: Model) -> nn.Module:
    if isinstance(model, nn.Module) and not isinstance(model, nn.ModuleList):
        return model
    modules: list[object] = list(model) if isinstance(model, (list, tuple, nn.ModuleList)) else [model]
    found = [module for module in modules if isinstance(module, nn.Module)]
    if len(found) < len(modules):
        raise ValueError("the model must be a torch.nn.Module or a list of those (objects, not their classes)")
    return nn.Sequential(*found)


def _paths(root: nn.Module, blocks: str | Iterable[str] | None) -> list[str]:
    """The paths of the layers, in the order in which they run."""
    declared = blocks if blocks is not None else getattr(root, "pipeline_blocks", None)
    if declared is not None:
        paths = _expanded(root, [declared] if isinstance(declared, str) else list(declared))
    elif isinstance(root, nn.Sequential) and type(root).forward is nn.Sequential.forward:
        paths = list(root._modules)
    else:
        raise ValueError(
            f"{type(root).__name__} is no plain nn.Sequential and declares no order of its blocks: name them in the"
            ' order in which they run, blocks=["embedding", "layers.*", "head"], or as its attribute pipeline_blocks'
        )
    if not paths:
        raise ValueError("the model has no layers; give one with at least one block")
    return paths


def _expanded(root: nn.Module, blocks: Sequence[str]) -> list[str]:
    modules = [path for path, _ in root.named_modules(remove_duplicate=False) if path]
    paths: list[str] = []
    for block in blocks:
        found = [block] if block in modules else [path for path in modules if _matches(path, block)]
        if not found:
            there = ", ".join(name for name, _ in root.named_children())
            raise ValueError(f"blocks: {block!r} matches no module of the model; it has {there}")
        paths += found
    for index, path in enumerate(paths):
        for other in paths[:index]:
            if path == other:
                raise ValueError(f"blocks: {path} is named twice; name each block once")
            if path.startswith(f"{other}.") or other.startswith(f"{path}."):
                raise ValueError(f"blocks: {path} and {other} are within one another; name one of them")
    return paths


def _matches(path: str, pattern: str) -> bool:
    parts, patterns = path.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _tied(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    """The keys with all their names: as `modules.view` has them, and by identity where there is no memory yet."""
    first_of: dict[object, str] = {}
    names: dict[str, list[str]] = {}
    memories = {name: Elements.of(tensor) for name, tensor in tensors.items() if tensor.numel() and not tensor.is_meta}
    for name, tensor in tensors.items():
        key = first_of.setdefault(memories.get(name, id(tensor)), name)
        names.setdefault(key, []).append(name)
    if pair := overlap({key: memories[key] for key in names if key in memories}):
        first, second = pair
        raise ValueError(f"{first} and {second} have elements in common; give {second} a memory of its own (clone())")
    return {key: tuple(found) for key, found in names.items()}


def _holders(key: str, names: Sequence[str], paths: Mapping[str, str], blocks: Sequence[str]) -> tuple[int, ...]:
    """The layers that have one of these names."""
    found = set()
    for index, block in enumerate(blocks):
        inside = [name for name in names if paths[name].startswith(f"{block}.")]
        if not all(name.startswith(f"{block}.") for name in inside):
            raise ValueError(f"block {block} is within a wrapper; give the model that is wrapped, not the wrapper")
        if inside:
            found.add(index)
    if not found:
        shown = ", ".join(blocks[:SHOWN_NAMES]) + (" ..." if len(blocks) > SHOWN_NAMES else "")
        raise ValueError(f"{key} is in none of the blocks ({shown}); name the block that has it, or move it into one")
    return tuple(sorted(found))


def _check_tie(key: str, blocks: Sequence[str], tensors: Sequence[torch.Tensor]) -> None:
    between = " and ".join(blocks)
    if not isinstance(tensors[0], nn.Parameter):
        raise ValueError(
            f"{key} is a buffer of {between}, and each would write it; put them into one block, give each its own, or"
            " keep it out of the state_dict (persistent=False)"
        )
    if any(tensor is not tensors[0] for tensor in tensors):
        raise ValueError(
            f"{key} is tied between {between} by its memory alone; tie them as one Parameter (second.weight ="
            " first.weight)"
        )
