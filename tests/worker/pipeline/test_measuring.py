"""What each layer costs."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from leeway.worker.pipeline.computing import Computing
from leeway.worker.pipeline.layers import Layers
from leeway.worker.pipeline.measuring import measure, stand_in
from leeway.worker.pipeline.plan import make as planned
from leeway.worker.pipeline.schedules import SCHEDULES
from leeway.worker.pipeline.stage import build
from tests.worker.pipeline.models import Transformer, kinds, on_meta
from tests.worker.pipeline.near import Pipeline


class Ticks:
    """A clock that moves when it is told to."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, clock, seconds):
        ctx.clock, ctx.seconds = clock, seconds
        clock.seconds += next(seconds)
        return inputs.clone()

    @staticmethod
    def backward(ctx, error):
        ctx.clock.seconds += 10 * next(ctx.seconds)
        return error, None, None


class Timed(nn.Module):
    def __init__(self, clock, seconds):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.clock, self.seconds = clock, seconds

    def __deepcopy__(self, _):
        return self  # the clock is one

    def forward(self, inputs):
        return Slow.apply(inputs * self.weight, self.clock, self.seconds)


def test_milliseconds_are_the_median_behind_a_warming_run():
    clock = Ticks()
    seconds = iter([90, 90, 1, 5, 3, 4, 2, 6])  # forward and backward of each run
    (cost,) = measure(Layers([Timed(clock, seconds)]), torch.ones(2), clock=clock)
    assert (cost.forward_seconds, cost.backward_seconds) == (2, 50)


def test_bytes_of_a_small_model():
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.ReLU(), nn.Linear(8, 2, bias=False))
    costs = measure(Layers(model), torch.randn(5, 4))
    assert [cost.name for cost in costs] == ["0", "1", "2", "3"]
    assert [cost.parameters for cost in costs] == [40, 0, 0, 16]
    assert [cost.value_bytes for cost in costs] == [160, 0, 0, 64]
    assert [cost.input_bytes for cost in costs] == [80, 160, 160, 160]
    assert [cost.output_bytes for cost in costs] == [160, 160, 160, 40]
    # Linear keeps what it is given; Tanh and ReLU keep what they give, which counts for the layer behind.
    assert [cost.activation_bytes for cost in costs] == [80, 0, 160, 160]


def test_what_is_written_in_place_counts_once():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2, bias=False))
    costs = measure(Layers(model), torch.randn(5, 4))
    assert [cost.activation_bytes for cost in costs] == [80, 0, 0, 160]


@pytest.mark.parametrize("name", kinds())
def test_a_stage_keeps_as_many_bytes_as_its_layers_together(name):
    kind = kinds()[name]
    costs = measure(Layers(on_meta(kind.make)()), kind.inputs)
    computing = Computing(build(Layers(kind.make()), (len(costs),), 0, 0), seed=0, rank="w0", loss=kind.loss)
    computing.forward(0, kind.inputs, 1.0, kind.targets)
    # Beside them the loss keeps something of the output, which is no layer's.
    assert computing.held_bytes == pytest.approx(sum(cost.activation_bytes for cost in costs), rel=0.25)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_each_stage_holds_as_many_bytes_as_the_plan_says(schedule, recompute):
    def make():
        blocks = (nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(6))
        return nn.Sequential(*blocks, nn.Linear(32, 4))

    costs = measure(Layers(on_meta(make)()), stand_in((8, 32)), runs=1)
    plan = planned([costs] * 3, schedule, 4, "2,3,2", recompute=recompute)
    pipeline = Pipeline(on_meta(make), plan.cut, loss=cross_entropy, recompute=recompute)
    outcomes = pipeline.train(SCHEDULES[schedule], 4, stand_in((32, 32)), stand_in((32,), torch.int64))
    for stage, outcome in zip(plan.stages, outcomes, strict=True):
        assert outcome.activation_bytes == pytest.approx(stage.activation_bytes, rel=0.15)


def test_one_layer_is_real_at_a_time_and_the_model_is_left_alone():
    model = on_meta(Transformer)()
    state = torch.get_rng_state()
    costs = measure(Layers(model), stand_in((2, 5), torch.int64))
    assert [cost.name for cost in costs] == ["embedding", "blocks.0", "blocks.1", "norm", "head"]
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    real = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = {name: tensor.clone() for name, tensor in real.state_dict().items()}
    measure(Layers(real), torch.randn(4, 3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in real.state_dict().items())
    assert all(parameter.grad is None for parameter in real.parameters())


def test_a_layer_that_fails_is_named_with_what_it_was_given():
    with pytest.raises(ValueError, match=r"layer 1 fails on what it is given \(torch\.float32 \[2, 3\]\): mat1"):
        measure(Layers([nn.Linear(4, 3), nn.Linear(4, 1)]), torch.randn(2, 4))
    with pytest.raises(ValueError, match="layer 0 gives a tuple with a tuple"):
        measure(Layers([nn.LSTM(4, 3), nn.Linear(3, 1)]), torch.randn(2, 1, 4))


def test_an_example_of_a_shape_and_dtype():
    assert stand_in((2, 3)).shape == (2, 3)
    assert torch.equal(stand_in((2, 3)), stand_in((2, 3)))
    assert stand_in((2,), torch.bfloat16).dtype is torch.bfloat16
    assert torch.equal(stand_in((2,), torch.int64), torch.zeros(2, dtype=torch.int64))
