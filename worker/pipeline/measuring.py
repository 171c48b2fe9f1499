"""What each layer costs, measured on this machine with one micro-batch.

The one rule: one layer is real at a time, as a copy; the model is left as it was, and so are torch's generators.
"""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from leeway.worker.pipeline.borders import Exit, check, detached, enter, joined, named
from leeway.worker.pipeline.costs import LayerCost
from leeway.worker.pipeline.keeping import Keeping, bytes_of
from leeway.worker.pipeline.layers import tensors_of
from leeway.worker.pipeline.randomness import initial_seed, seeded
from leeway.worker.pipeline.realising import clear, realise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from leeway.worker.pipeline.borders import Activations
    from leeway.worker.pipeline.layers import Layer, Layers

# Of so many runs the median counts, behind one that warms caches up.
RUNS = 3

_CPU = torch.device("cpu")
# Which values there are means nothing here.
_SEED = 0


@dataclass(frozen=True, slots=True)
class _Pass:
    """Once through a layer. `saved`: which of the outputs, by name, the layer keeps for its backward pass. The layer
    behind counts them: it may keep them too, and they are one memory."""

    forward_seconds: float
    backward_seconds: float
    activation_bytes: int
    output: Activations
    saved: frozenset[str]


def stand_in(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """An example of such inputs: normal numbers, and zeros for integers, which are valid indices."""
    with seeded(_SEED, _CPU):
        return torch.randn(*shape).to(dtype) if dtype.is_floating_point else torch.zeros(*shape, dtype=dtype)


def measure(
    layers: Layers,
    example: Activations,
    *,
    runs: int = RUNS,
    device: torch.device = _CPU,
    clock: Callable[[], float] = time.perf_counter,
) -> list[LayerCost]:
    """The costs of each layer for one micro-batch like `example`, in order.

    Raises `ValueError` for a layer that fails on what the one before it gives, or gives what cannot be handed over.
    """
    costs = []
    given = joined({name: tensor.to(device) for name, tensor in named(example).items()})
    saved: frozenset[str] = frozenset()
    for layer in layers.layers:
        cost, given, saved = _measured(layer, given, saved, runs, device, clock)
        costs.append(cost)
    return costs


def _measured(
    layer: Layer,
    given: Activations,
    saved: frozenset[str],
    runs: int,
    device: torch.device,
    clock: Callable[[], float],
) -> tuple[LayerCost, Activations, frozenset[str]]:
    """The costs, with what the layer behind is given, and `saved` of it. The layer itself is gone then."""
    module = _real(layer, device)
    passes = [_run(layer, module, given, saved, device, clock) for _ in range(runs + 1)][1:]
    output = passes[-1].output
    cost = LayerCost(
        name=layer.name,
        forward_seconds=median(one.forward_seconds for one in passes),
        backward_seconds=median(one.backward_seconds for one in passes),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        value_bytes=bytes_of(tensor for _, tensor in tensors_of(module)),
        activation_bytes=passes[-1].activation_bytes,
        input_bytes=bytes_of(named(given).values()),
        output_bytes=bytes_of(named(output).values()),
    )
    return cost, output, passes[-1].saved


def _real(layer: Layer, device: torch.device) -> torch.nn.Module:
    module = deepcopy(layer.module)
    for tensor in realise(module, _SEED, layer.index, device).unset.values():
        clear(tensor)
    return module.to(device)


def _run(
    layer: Layer,
    module: torch.nn.Module,
    given: Activations,
    saved: frozenset[str],
    device: torch.device,
    clock: Callable[[], float],
) -> _Pass:
    # A copy: the layer may write into it. The first one's needs no errors, as on the first stage.
    received = joined({name: tensor.clone() for name, tensor in named(given).items()})
    value = enter(received)[1] if layer.index else received
    with seeded(initial_seed(_SEED, layer.index), device), Keeping([module]) as keeping, torch.enable_grad():
        begin = _now(clock, device)
        output = _output(layer, module, value)
        middle = _now(clock, device)
    inputs, outputs = named(received), named(output)
    errors = {name: torch.ones_like(tensor) for name, tensor in outputs.items() if tensor.requires_grad}
    with torch.enable_grad():
        exit = Exit.of(output)
    start = _now(clock, device)
    exit.backward(errors)
    end = _now(clock, device)
    module.zero_grad(set_to_none=True)
    for_us = {name: tensor for name, tensor in inputs.items() if name in saved or keeping.keeps(tensor)}
    # What is given as it came, or written in place, the layer behind counts in its turn.
    ours = {name for name, tensor in outputs.items() if keeping.keeps(tensor) or _is_one_of(tensor, for_us)}
    inside = keeping.without((*inputs.values(), *outputs.values()))
    count = inside + bytes_of(tensor for tensor in for_us.values() if not _is_one_of(tensor, outputs))
    return _Pass(middle - begin, end - start, count, detached(output), frozenset(ours))


def _output(layer: Layer, module: torch.nn.Module, value: Activations) -> Activations:
    shapes = ", ".join(f"{tensor.dtype} {list(tensor.shape)}" for tensor in named(value).values())
    try:
        return check(layer.name, module(value))
    except (RuntimeError, TypeError, IndexError) as error:
        words = str(error).partition("\n")[0]
        raise ValueError(f"layer {layer.name} fails on what it is given ({shapes}): {words}") from error


def _is_one_of(tensor: torch.Tensor, others: Mapping[str, torch.Tensor]) -> bool:
    """Whether both are one memory."""
    memory = tensor.untyped_storage().data_ptr()
    return any(memory == other.untyped_storage().data_ptr() for other in others.values())


def _now(clock: Callable[[], float], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()
