"""What goes over the border of a stage: a tensor, or a flat tuple of tensors, and the errors of those that have any.

The one rule: a stage's graph ends at its borders. What comes in is a leaf of its own, what goes out is detached.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from leeway.protocol.tensors import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

Activations: TypeAlias = "torch.Tensor | tuple[torch.Tensor, ...]"

# The name of the only tensor. Those of a tuple are called 0, 1 and so on.
_ALONE = "activation"
# Behind a name: the order of dimensions in memory, if it is another than that of the shape.
_ORDER = ":"


def named(activations: Activations) -> dict[str, torch.Tensor]:
    """By the names under which they are handed over."""
    if isinstance(activations, torch.Tensor):
        return {_ALONE: activations}
    return {str(index): tensor for index, tensor in enumerate(activations)}


def joined(tensors: Mapping[str, torch.Tensor]) -> Activations:
    """The reverse of `named`."""
    return tensors[_ALONE] if _ALONE in tensors else tuple(tensors[str(index)] for index in range(len(tensors)))


def laid_out(activations: Activations) -> dict[str, torch.Tensor]:
    """As `named`, and as they lie in memory: contiguous, but for gaps. The name says in which order dimensions lie.

    A link keeps no strides; and in another order a layer behind would draw another dropout mask.
    """
    found = {}
    for name, tensor in named(activations).items():
        order = _order(tensor)
        suffix = "" if order == sorted(order) else _ORDER + ",".join(map(str, order))
        found[name + suffix] = tensor.permute(order)
    return found


def restored(tensors: Mapping[str, torch.Tensor]) -> Activations:
    """The reverse of `laid_out`."""
    found = {}
    for name, tensor in tensors.items():
        own, _, order = name.partition(_ORDER)
        if order:
            places = list(map(int, order.split(",")))
            tensor = tensor.permute([places.index(dimension) for dimension in range(len(places))])
        found[own] = tensor
    return joined(found)


def _order(tensor: torch.Tensor) -> list[int]:
    """The dimensions, from that whose steps in memory are longest; what is expanded lies nowhere, and stays."""
    strides = tensor.stride()
    if tensor.is_contiguous() or 0 in strides:
        return list(range(tensor.dim()))
    return sorted(range(tensor.dim()), key=lambda dimension: -strides[dimension])


def detached(activations: Activations) -> Activations:
    return joined({name: tensor.detach() for name, tensor in named(activations).items()})


def sent(activations: Activations) -> Activations:
    """What goes on its way while the stage computes on. A tensor without a history may be a buffer, or part of one,
    that the next forward writes into: it is copied. What has one was computed for this micro-batch alone.
    """
    return joined(
        {name: tensor.detach() if tensor.grad_fn else tensor.clone() for name, tensor in named(activations).items()}
    )


def check(layer: str, output: object) -> Activations:
    """What this layer gave, if it can go over a border. Raises `ValueError` else."""
    tensors = output if type(output) is tuple else (output,)
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            what = f"a tuple with a {type(tensor).__name__}" if type(output) is tuple else f"a {type(output).__name__}"
            raise ValueError(
                f"layer {layer} gives {what}; where the model is cut, a layer must give a tensor or a flat tuple of"
                " tensors: cut it elsewhere, or take what is needed out of it in a block of your own"
            )
        kind = str(tensor.dtype if tensor.layout is torch.strided else tensor.layout).removeprefix("torch.")
        if kind not in DTYPES:
            raise ValueError(f"layer {layer} gives {kind}; what is handed over is dense, and {', '.join(DTYPES)}")
    if not tensors:
        raise ValueError(f"layer {layer} gives an empty tuple; where the model is cut, it must give a tensor")
    return tensors if type(output) is tuple else tensors[0]


class _In(torch.autograd.Function):
    """The same memory, but no leaf: what is received may be written in place, as by `nn.ReLU(inplace=True)`."""

    @staticmethod
    def forward(ctx: Any, received: torch.Tensor) -> torch.Tensor:
        # No view of it: autograd would watch what is written through one.
        place = received.untyped_storage(), received.storage_offset(), received.shape, received.stride()
        return received.new_empty(0).set_(*place)

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        return errors[0]


class _Out(torch.autograd.Function):
    """The root of a stage's graph, where the errors come in. So what was sent need not be kept for its shape."""

    @staticmethod
    def forward(ctx: Any, exit: Exit, *outputs: torch.Tensor) -> torch.Tensor:
        ctx.exit = exit
        return outputs[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        exit: Exit = ctx.exit
        return (None, *(exit.errors.get(name) for name in exit.names))


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> torch.Tensor:
    output: torch.Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return output


def enter(received: Activations) -> tuple[dict[str, torch.Tensor], Activations]:
    """The leaves that errors are for, by name, and what is to be computed with. Integers and bools have no errors."""
    leaves = {
        name: tensor.detach().requires_grad_() for name, tensor in named(received).items() if tensor.is_floating_point()
    }
    entered = {name: _apply(_In, leaf) for name, leaf in leaves.items()}
    return leaves, joined(named(received) | entered)


@dataclass(slots=True)
class Exit:
    """Where the errors of what was sent come in. `names`: of those that have errors."""

    names: tuple[str, ...]
    root: torch.Tensor | None = None
    errors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, output: Activations) -> Exit:
        differentiable = {name: tensor for name, tensor in named(output).items() if tensor.requires_grad}
        exit = cls(tuple(differentiable))
        if differentiable:
            exit.root = _apply(_Out, exit, *differentiable.values())
        return exit

    def backward(self, errors: Mapping[str, torch.Tensor]) -> None:
        """An output without an error took no part in the loss."""
        self.errors = errors
        if self.root is not None and any(name in errors for name in self.names):
            torch.autograd.backward(self.root)
        self.errors, self.root = {}, None
