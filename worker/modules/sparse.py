"""Sparse gradients, which travel dense: how much more that is than they hold (`nn.Embedding(sparse=True)`)."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def excess(gradients: Sequence[torch.Tensor]) -> float | None:
    """How many times larger the parameter is than the rows that its gradients touch; twins have several.

    None where one of them is dense, or no row is touched, or each.
    """
    if any(gradient.layout == torch.strided for gradient in gradients):
        return None
    total = reduce(add, gradients)
    touched = total.to_sparse().coalesce().values().numel()
    return total.numel() / touched if 0 < touched < total.numel() else None
