"""A layer on the meta device made real: its values are a function of (seed, layer).

The one rule: a value that no `reset_parameters` has set is noticed. Floats begin as NaN; integers as a number that
nobody writes.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from leeway.worker.pipeline.randomness import initial_seed, seeded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_RESETS = ("reset_parameters", "_reset_parameters")

# Each byte of an integer that was not set: -1515870811 for int32.
_UNSET_BYTE = 0xA5


@dataclass(frozen=True, slots=True)
class Realised:
    """What was made of one layer. `made`: by the id of the tensor on the meta device; `unset`: those that no reset has
    set, by their path in the layer."""

    made: Mapping[int, torch.Tensor]
    unset: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor on the meta device is."""

    owner: nn.Module
    own: str
    path: str
    tensor: torch.Tensor


def realise(
    module: nn.Module, seed: int, layer: int, device: torch.device, tied: Mapping[int, torch.Tensor] | None = None
) -> Realised:
    """Give what is on the meta device in `module` memory and values, in place. What is real keeps its values.

    `tied`: by the id of the tensor on the meta device, what is put in its place in the end; this layer draws as if it
    were its own. Raises `ValueError` for a reset that puts another object in the place of a tensor.
    """
    places = list(_on_meta(module))
    if not places:
        return Realised({}, {})
    kept = [(tensor, tensor.detach().clone()) for tensor in _tensors(module) if not tensor.is_meta]
    made = {id(place.tensor): _blank(place.tensor, device) for place in places}
    versions = {key: tensor._version for key, tensor in made.items()}
    for place in places:
        setattr(place.owner, place.own, made[id(place.tensor)])
    with seeded(initial_seed(seed, layer), device):
        _reset(module, {id(place.owner) for place in places})
    with torch.no_grad():
        for tensor, values in kept:
            tensor.copy_(values)
    unset = {}
    for place in places:
        key = id(place.tensor)
        if getattr(place.owner, place.own) is not made[key]:
            raise ValueError(f"{place.path}: reset_parameters puts another object in its place; let it write in place")
        if _is_unset(made[key], versions[key]):
            unset[place.path] = made[key]
        if tied and key in tied:
            setattr(place.owner, place.own, tied[key])
    return Realised(made, unset)


@contextmanager
def wholly(modules: Iterable[nn.Module]) -> Iterator[None]:
    """What is realised within is on the meta device again where that is interrupted or fails: what is made in part has
    no values, and would be taken for real the next time.
    """
    places = [place for module in modules for place in _on_meta(module)]
    try:
        yield
    except BaseException:
        for place in places:
            setattr(place.owner, place.own, place.tensor)
        raise


def clear(tensor: torch.Tensor) -> None:
    """Give what no reset has set zeros, until its values come."""
    with torch.no_grad():
        tensor.nan_to_num_(nan=0.0) if _has_nan(tensor) else tensor.zero_()


def _on_meta(module: nn.Module) -> Iterator[_Place]:
    for prefix, owner in module.named_modules():
        for tensors in (owner._parameters, owner._buffers):
            for own, tensor in list(tensors.items()):
                if tensor is not None and tensor.is_meta:
                    yield _Place(owner, own, f"{prefix}.{own}" if prefix else own, tensor)


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _has_nan(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _blank(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """One like it that says that it was not set."""
    made = _empty(tensor, device)
    _mark(made)
    if isinstance(tensor, nn.Parameter):
        made = nn.Parameter(made, requires_grad=tensor.requires_grad)
        made.__dict__.update(tensor.__dict__)
    return made


def _empty(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """In the same layout, where that is dense."""
    # Not empty_like: from the meta device it loads torch's decompositions, 500 modules and 34 MiB.
    shape, strides = tensor.shape, tensor.stride()
    dense = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1 == tensor.numel()
    if not dense:
        return torch.empty(shape, dtype=tensor.dtype, device=device)
    return torch.empty_strided(shape, strides, dtype=tensor.dtype, device=device)


def _mark(tensor: torch.Tensor) -> None:
    if _has_nan(tensor):
        tensor.fill_(torch.nan)
    elif tensor.dtype is torch.bool:
        tensor.fill_(True)
    elif tensor.numel():
        tensor.fill_(_unset(tensor.dtype))


def _unset(dtype: torch.dtype) -> int:
    return int(torch.full((dtype.itemsize,), _UNSET_BYTE, dtype=torch.uint8).view(dtype).item())


def _is_unset(tensor: torch.Tensor, version: int) -> bool:
    if not tensor.numel():
        return False
    if _has_nan(tensor):
        return bool(tensor.isnan().any())
    # What is written through .data counts no version; then the values tell, but for a bool that was set to True.
    return tensor._version == version and bool((tensor == (tensor.dtype is torch.bool or _unset(tensor.dtype))).all())


def _reset(module: nn.Module, owners: set[int]) -> None:
    """Of whatever owns one of the tensors, or has a part that does."""
    for part in _children_first(module, set()):
        if any(id(each) in owners for each in part.modules()):
            for name in _RESETS:
                if callable(reset := getattr(part, name, None)):
                    reset()


def _children_first(module: nn.Module, seen: set[int]) -> Iterator[nn.Module]:
    """As their constructors ran: what a module sets of its children stands (`nn.MultiheadAttention`)."""
    seen.add(id(module))
    for child in module._modules.values():
        if child is not None and id(child) not in seen:
            yield from _children_first(child, seen)
    yield module
