"""The models whose bytes are sent back and forth: shapes alone, no training.

The one rule: all values are float32 and finite, so that the server's guard lets every push through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from leeway.protocol.spans import Layout
from leeway.protocol.tensors import Kind, TensorSpec
from leeway.transport.channel import Tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20


def specs(model: str) -> tuple[TensorSpec, ...]:
    """`single`: one tensor of 100 MiB; `resnet50`: the 161 trainable ones of ResNet-50; `small`: one of 4 KiB."""
    shapes: dict[str, tuple[int, ...]]
    match model:
        case "single":
            shapes = {"weight": (25 * MIB,)}
        case "resnet50":
            shapes = dict(_resnet50())
        case "small":
            shapes = {"weight": (1024,)}
        case _:
            raise ValueError(f"no model {model!r}")
    return tuple(TensorSpec(name, shape, "float32", Kind.TRAINABLE) for name, shape in shapes.items())


def update(model: str) -> Tensors:
    """A body of the model's shape. Normal random numbers, as small as gradients; zeros between the tensors."""
    layout = Layout.of(specs(model))
    body = np.zeros(layout.nbytes, np.uint8)
    random = np.random.default_rng(0)
    for place in layout.places.values():
        values = random.standard_normal(place.spec.elements, np.float32) * np.float32(1e-3)
        body[place.offset_bytes : place.end_bytes] = values.view(np.uint8)
    return Tensors(layout, [body.data])


def _resnet50() -> Iterator[tuple[str, tuple[int, ...]]]:
    """He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016, table 1; 25,557,032 in all."""
    yield "conv1.weight", (64, 3, 7, 7)
    yield from _norm("bn1", 64)
    inputs = 64
    for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            outputs = 4 * width
            for number, shape in enumerate(
                ((width, inputs, 1, 1), (width, width, 3, 3), (outputs, width, 1, 1)), start=1
            ):
                yield f"{name}.conv{number}.weight", shape
                yield from _norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                yield f"{name}.downsample.0.weight", (outputs, inputs, 1, 1)
                yield from _norm(f"{name}.downsample.1", outputs)
            inputs = outputs
    yield "fc.weight", (1000, inputs)
    yield "fc.bias", (1000,)


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
