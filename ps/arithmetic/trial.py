"""Settings are tried on a model of a few elements before they count.

The one rule: settings that pass here make a step. Whoever takes them untried finds out with a worker's update.
"""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import Any

from leeway.protocol.spans import Layout
from leeway.protocol.tensors import DTYPES, Kind, TensorSpec
from leeway.ps.arithmetic.clipping import clip
from leeway.ps.arithmetic.optimizers import Optimizer
from leeway.ps.arithmetic.runs import Chart, Run
from leeway.ps.arithmetic.settings import MAX_STEPS, OptimizerSettings
from leeway.ps.arithmetic.values import Masters, Values

# A first step that divides by next to nothing, then the usual one.
_GRADIENTS = (0.0, 1.0)


def try_settings(settings: OptimizerSettings) -> None:
    """Take real steps on a model of a few elements, two tensors of each floating dtype.

    Raises `ValueError` that names the field, where torch cannot step with these settings or the steps leave the
    numbers: whoever takes settings without this finds out when a worker's update fails.
    """
    try:
        _try(settings)
    except Exception as error:
        name = _culprit(settings)
        raise ValueError(f"{name} is {getattr(settings, name)}; no step can be made with it: {error}") from error


def _try(settings: OptimizerSettings) -> None:
    layout = Layout.of(
        TensorSpec(f"{name}/{len(shape)}", shape, name, Kind.TRAINABLE)
        for name, dtype in DTYPES.items()
        if dtype.floating
        for shape in ((1,), (1, 1))
    )
    masters, chart = Masters.of(layout), Chart(layout)

    def fresh() -> Values:
        return Values(masters, memoryview(bytearray(layout.nbytes)), memoryview(bytearray(masters.nbytes)))

    old, new, slopes = fresh(), fresh(), fresh()
    optimizer = Optimizer(settings, layout, old)
    for size in _GRADIENTS:
        for place in layout.places.values():
            slopes.tensor(place).fill_(size)
        gradient = [Run(run.span, run.first, run.stop, slopes.flat(run)) for run in chart.whole(slopes.body)]
        if settings.clip_norm is not None:
            gradient, _ = clip(gradient, settings.clip_norm, fresh)
        optimizer.step(old, new, gradient)
        # Not what is rounded from it: a rate may be too large for half precision and right for its neighbours.
        if not all(new.tensor(place).isfinite().all() for place in layout.places.values()):
            raise ValueError(f"a gradient of {size:g} leads to NaN or infinity")
        old, new = new, old
    for step in (settings.warmup_steps, settings.schedule_steps or 0, MAX_STEPS):
        settings.learning_rate(step)


def _culprit(settings: OptimizerSettings) -> str:
    """The field whose default value mends it; the kind, where no single one does."""
    for field in dataclasses.fields(settings):
        if field.name != "kind" and getattr(settings, field.name) != field.default:
            other: dict[str, Any] = {field.name: field.default}
            with suppress(Exception):
                _try(dataclasses.replace(settings, **other))
                return field.name
    return "kind"
