"""The plan: the cut, its figures, its words."""

import json
from dataclasses import replace

import pytest

from leeway.errors import MalformedRequest
from leeway.worker.pipeline.costs import LayerCost
from leeway.worker.pipeline.plan import Plan, make

LAYER = LayerCost("0", 0.001, 0.002, 100, 400, 4096, 1024, 1024)
LAYERS = [replace(LAYER, name=str(index)) for index in range(8)]


def times(layers, factor):
    return [
        replace(one, forward_seconds=factor * one.forward_seconds, backward_seconds=factor * one.backward_seconds)
        for one in layers
    ]


def test_by_time_a_slow_machine_gets_fewer_layers():
    plan = make([LAYERS[1:], times(LAYERS[1:], 2)], "1f1b", 4, "time")
    assert plan.cut == (5, 2)
    assert plan.slowest == 0
    assert [stage.seconds for stage in plan.stages] == pytest.approx([0.015, 0.012])
    equal = make([LAYERS[1:], times(LAYERS[1:], 2)], "1f1b", 4, "3,4")
    assert plan.efficiency > equal.efficiency


def test_by_memory_the_first_stages_get_fewer_layers_under_1f1b():
    """They hold the activations of more micro-batches; under gpipe all hold the same."""
    plan = make([LAYERS] * 4, "1f1b", 8, "memory")
    assert plan.cut == (1, 1, 2, 4)
    assert plan.stages[0].activation_bytes == 4 * 4096
    assert plan.stages[3].activation_bytes == 4 * 4096
    assert plan.stages[0].memory_bytes == 4 * 4096 + 4 * 400
    assert make([LAYERS] * 4, "gpipe", 8, "memory").cut == (2, 2, 2, 2)


def test_recomputing_keeps_inputs_and_takes_a_forward_more():
    kept, again = (make([LAYERS] * 2, "gpipe", 8, "4,4", recompute=recompute).stages[0] for recompute in (False, True))
    assert kept.activation_bytes == 8 * 4 * 4096
    assert again.activation_bytes == 8 * 1024 + 4 * 4096
    assert again.seconds == pytest.approx(kept.seconds + 4 * 0.001)


def test_the_efficiency_is_that_of_the_schedule():
    assert make([LAYERS] * 4, "1f1b", 8).efficiency == pytest.approx(8 / 11)
    assert make([LAYERS], "gpipe", 1).efficiency == 1
    assert make([times(LAYERS, 0)] * 2, "gpipe", 1).efficiency == 1


def test_in_words():
    # fmt: off
    assert make([LAYERS, LAYERS], "1f1b", 4, "7,1").table() == "\n".join([
        "stage  layers      forward  backward  parameters  activations    memory",
        "0      0 to 6 (7)   7.0 ms   14.0 ms         700     56.0 KiB  66.9 KiB",
        "1      7            1.0 ms    2.0 ms         100      4.0 KiB   5.6 KiB",
        "1f1b, 4 micro-batches (times are of one): at best 57% of the time is computing; the others wait for stage 0",
    ])
    # fmt: on


def test_as_plain_values():
    plan = make([LAYERS] * 3, "1f1b", 4)
    assert Plan.read(json.loads(json.dumps(plan.to_fields()))) == plan
    assert LayerCost.read(json.loads(json.dumps(LAYER.to_fields()))) == LAYER
    with pytest.raises(MalformedRequest, match="'schedule' is 'zig-zag', it must be one of gpipe, 1f1b, zb-h1"):
        Plan.read(plan.to_fields() | {"schedule": "zig-zag"})
    with pytest.raises(MalformedRequest, match="a layer's costs: 'parameters' is missing"):
        LayerCost.read({"name": "0", "forward_seconds": 0, "backward_seconds": 0})


def test_a_cut_that_cannot_be():
    with pytest.raises(ValueError, match="'fast' must be time, memory, or numbers of layers such as 2,3,3"):
        make([LAYERS] * 2, "1f1b", 4, "fast")
    with pytest.raises(ValueError, match="9 stages, and the model has 8 layers"):
        make([LAYERS] * 9, "1f1b", 4)
