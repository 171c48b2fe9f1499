"""Gradients that are taken off their parameters for a while: an optimizer's step finds none and moves nothing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import torch


@contextmanager
def set_aside(parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
    """These have no gradient for the length of the block, and then the one that they had."""
    gradients = taken_off(parameters)
    try:
        yield
    finally:
        put_back(gradients)


def taken_off(parameters: Iterable[torch.nn.Parameter]) -> list[tuple[torch.nn.Parameter, torch.Tensor]]:
    """The gradients of those that have one; from here on they have none."""
    gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
    for parameter, _ in gradients:
        parameter.grad = None
    return gradients


def put_back(gradients: Iterable[tuple[torch.nn.Parameter, torch.Tensor]]) -> None:
    for parameter, gradient in gradients:
        parameter.grad = gradient
