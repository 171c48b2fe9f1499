"""One iteration of a stage: what it needs, what it hands over, what it tells."""

import pytest
import torch
from torch import nn

from leeway.protocol.handovers import Direction
from leeway.worker.pipeline.computing import Computing
from leeway.worker.pipeline.iteration import Iteration
from leeway.worker.pipeline.layers import Layers
from leeway.worker.pipeline.neighbours import Dropped, Handed
from leeway.worker.pipeline.schedules import SCHEDULES
from leeway.worker.pipeline.stage import build
from tests.worker.pipeline.near import Pipeline

ONE_F_ONE_B = SCHEDULES["1f1b"]


def mean(output, _):
    return output.mean()


def make():
    return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))


class Scripted:
    """A neighbour on either side whose replies are known before; a clock moves by what it takes."""

    def __init__(self, clock, received):
        self.clock, self.received, self.sent = clock, list(received), []

    def send(self, stage, handed):
        self.clock.seconds += 2
        self.sent.append((stage, handed))

    def receive(self, stage, direction, micro_batch):
        self.clock.seconds += 5
        handed = self.received.pop(0)
        assert (handed.direction, handed.micro_batch) == (direction, micro_batch)
        return handed


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


class Working(nn.Linear):
    """Takes a second."""

    clock = None

    def forward(self, inputs):
        self.clock.seconds += 1
        return super().forward(inputs)


def test_a_stage_without_batch_learns_samples_from_what_it_is_handed_and_tells_what_took_how_long():
    clock = Clock()
    layers = [nn.Linear(3, 3), Working(3, 3), nn.Linear(3, 1)]
    layers[1].clock = clock
    computing = Computing(build(Layers(layers), (1, 1, 1), 1, 0), seed=0, rank="w0")
    activations = {"activation": torch.ones(3, 3)}
    neighbours = Scripted(
        clock,
        [
            Handed(Direction.FORWARD, 0, 3, 5, activations),
            Handed(Direction.FORWARD, 1, 2, 5, {"activation": torch.ones(2, 3)}),
            Handed(Direction.BACKWARD, 0, 3, 5, activations),
            Handed(Direction.BACKWARD, 1, 2, 5, {"activation": torch.ones(2, 3)}),
        ],
    )
    outcome = Iteration(computing, neighbours, 0, 2, clock=clock).train(ONE_F_ONE_B)
    assert [
        (stage, handed.direction, handed.micro_batch, handed.samples, handed.total) for stage, handed in neighbours.sent
    ] == [
        (2, "forward", 0, 3, 5),
        (2, "forward", 1, 2, 5),
        (0, "backward", 0, 3, 5),
        (0, "backward", 1, 2, 5),
    ]
    assert (outcome.loss, outcome.samples, outcome.in_flight) == (None, 5, 2)
    assert (outcome.computed_seconds, outcome.waited_seconds) == (2, 4 * 5 + 4 * 2)
    assert outcome.activation_bytes == (3 + 2) * 3 * 4
    assert [(str(m.action), m.began_seconds, m.ended_seconds, m.waited_seconds) for m in outcome.moments] == [
        ("F0", 0, 8, 7),
        ("F1", 8, 16, 7),
        ("B0", 16, 23, 7),
        ("B1", 23, 30, 7),
    ]


class Unused:
    def send(self, stage, handed):
        raise AssertionError(stage)

    receive = send


def alone(**batch):
    computing = Computing(build(Layers(make()), (3,), 0, 0), seed=0, rank="w0", loss=mean)
    return Iteration(computing, Unused(), 0, 2, training=True, **batch)


def test_one_stage_needs_no_neighbours():
    outcome = alone(inputs=torch.randn(4, 3), targets=torch.zeros(4)).train(ONE_F_ONE_B)
    assert outcome.samples == 4
    assert outcome.waited_seconds == 0


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="the first stage needs inputs"):
        alone()
    with pytest.raises(ValueError, match="the last stage needs targets"):
        alone(inputs=torch.randn(4, 3))
    with pytest.raises(ValueError, match="inputs has 1 samples, which cannot be cut into 2 micro-batches"):
        alone(inputs=torch.randn(1, 3))


def test_inputs_and_targets_that_are_cut_otherwise():
    pipeline = Pipeline(make, (1, 2), loss=mean)
    targets = [torch.zeros(1), torch.zeros(3)]
    with pytest.raises(ValueError, match="micro-batch 0 has 2 inputs on the first stage and 1 targets on the last"):
        pipeline.train(ONE_F_ONE_B, 2, torch.randn(4, 3), targets)


def test_an_iteration_that_was_dropped_is_repeated_as_if_it_had_not_been():
    inputs, targets = torch.randn(4, 3), torch.zeros(4)
    broken, whole = Pipeline(make, (1, 1, 1), loss=mean), None
    values = broken.values()

    class Breaking:
        """The stage behind is lost at the second activation."""

        def __init__(self):
            self.sent = 0

        def send(self, stage, handed):
            self.sent += 1
            if self.sent == 2:
                raise Dropped("stage 1 was lost")

        def receive(self, stage, direction, micro_batch):
            raise AssertionError(stage)

    with pytest.raises(Dropped):
        Iteration(broken.computing[0], Breaking(), 0, 4, inputs).train(ONE_F_ONE_B)
    broken.train(ONE_F_ONE_B, 4, inputs, targets)
    whole = Pipeline(make, (1, 1, 1), loss=mean)
    for stage in whole.stages:
        stage.module.load_state_dict({name: values[name] for name in stage.module.state_dict()})
    whole.train(ONE_F_ONE_B, 4, inputs, targets)
    assert all(torch.equal(gradient, whole.gradients()[name]) for name, gradient in broken.gradients().items())


def tied(frozen=False):
    """Three layers have the same weight: the owner is the first."""
    modules = [nn.Linear(3, 3, bias=False) for _ in range(3)]
    for module in modules[1:]:
        module.weight = modules[0].weight
    modules[0].weight.requires_grad_(not frozen)
    return nn.Sequential(*modules, nn.Linear(3, 1))


def test_the_owner_of_a_tied_key_gets_the_sum_of_all_shares():
    torch.manual_seed(0)
    inputs, model = torch.randn(5, 3), tied()
    model(inputs).mean().backward()
    state = model.state_dict()

    def remade():
        made = tied()
        made.load_state_dict(state)
        return made

    pipeline = Pipeline(remade, (1, 1, 2), loss=mean)
    pipeline.train(ONE_F_ONE_B, 2, inputs, torch.zeros(5))
    torch.testing.assert_close(pipeline.gradients()["0.weight"], model[0].weight.grad)


def test_a_frozen_tied_key_has_no_share():
    pipeline = Pipeline(lambda: tied(frozen=True), (2, 2), loss=mean)
    pipeline.train(ONE_F_ONE_B, 2, torch.randn(5, 3), torch.zeros(5))
    assert pipeline.gradients()["0.weight"] is None
