"""Weight gradients that are computed later than those of the inputs: the second half of a backward pass.

The one rule: what is put off is the product for the weight of a linear layer or a convolution, nearly all of that half.
Every other parameter gets its gradient in the first half, as autograd gives it. Nothing is computed twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CONVOLUTIONS: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}

Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


class _Product(Protocol):
    """Linear in its input and in its weight."""

    def forward(self, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor: ...

    def backward(
        self,
        error: torch.Tensor,
        value: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        mask: tuple[bool, bool, bool],
    ) -> Gradients:
        """The gradients of input, weight and bias, where `mask` asks for them."""


class _Linear:
    def forward(self, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return functional.linear(value, weight, bias)

    def backward(
        self,
        error: torch.Tensor,
        value: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        mask: tuple[bool, bool, bool],
    ) -> Gradients:
        errors, values = error.reshape(-1, error.shape[-1]), value.reshape(-1, value.shape[-1])
        return (
            error @ weight if mask[0] else None,
            errors.T @ values if mask[1] else None,
            errors.sum(0) if mask[2] else None,
        )


@dataclass(frozen=True, slots=True)
class _Convolution:
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    def forward(self, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return torch.convolution(value, weight, bias, *self._rest())

    def backward(
        self,
        error: torch.Tensor,
        value: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        mask: tuple[bool, bool, bool],
    ) -> Gradients:
        sizes = None if bias is None else list(bias.shape)
        gradients: Gradients = torch.ops.aten.convolution_backward(error, value, weight, sizes, *self._rest(), mask)
        return gradients

    def _rest(self) -> tuple[list[int], list[int], list[int], bool, list[int], int]:
        return self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        late: LateWeights,
        product: _Product,
        value: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        # The parameters as they are, because what autograd saves may come back as another object.
        ctx.late, ctx.product, ctx.weight, ctx.bias = late, product, weight, bias
        ctx.save_for_backward(value)
        return product.forward(value, weight, bias)

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        (error,), (value,) = errors, ctx.saved_tensors
        ctx.late.put_off(ctx.product, error, value, ctx.weight, ctx.bias)
        now = (ctx.needs_input_grad[2], False, False)
        return None, None, ctx.product.backward(error, value, ctx.weight, ctx.bias, now)[0], None, None


class LateWeights(TorchFunctionMode):
    """Of what is computed within, the weight gradients wait for `compute`, behind the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Callable[[], None]] = []

    def compute(self) -> None:
        """In the order in which they were put off; summed in `.grad`, as all are."""
        with torch.no_grad():
            for add in self._waiting:
                add()
        self._waiting.clear()

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        named = named or {}
        if torch.is_grad_enabled() and (product := _product(function, arguments, named)) is not None:
            value, weight, *rest = arguments
            bias = rest[0] if rest else named.get("bias")
            if (
                _is_ours(weight)
                and (bias is None or _is_ours(bias))
                and not torch.is_autocast_enabled(value.device.type)
            ):
                return _Halved.apply(self, product, value, weight, bias)  # type: ignore[no-untyped-call]
        return function(*arguments, **named)

    def put_off(
        self,
        product: _Product,
        error: torch.Tensor,
        value: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> None:
        def add() -> None:
            mask = (False, True, bias is not None)
            gradients = product.backward(error, value, weight, bias, mask)[1:]
            for parameter, gradient in zip((weight, bias), gradients, strict=True):
                if parameter is not None and gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)

        self._waiting.append(add)


def _is_ours(tensor: object) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.requires_grad and tensor.is_leaf


def _product(function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> _Product | None:
    """What the function computes, if it is such a product, called in the usual way."""
    if len(arguments) < 2:
        return None
    if function is functional.linear:
        return _Linear()
    dimensions = next((count for one, count in _CONVOLUTIONS.items() if one is function), None)
    if dimensions is None or len(arguments) != 7 or arguments[0].dim() != dimensions + 2:
        return None
    stride, padding, dilation, groups = arguments[3:]
    if isinstance(padding, str):
        return None
    return _Convolution(
        _listed(stride, dimensions), _listed(padding, dimensions), _listed(dilation, dimensions), groups
    )


def _listed(sizes: int | Sequence[int], dimensions: int) -> list[int]:
    return [sizes] * dimensions if isinstance(sizes, int) else list(sizes)
