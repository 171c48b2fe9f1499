"""A pipeline computes what the unsplit model computes: loss, gradients, buffers."""

import copy

import pytest
import torch
from torch import nn

from leeway.worker.pipeline.layers import Layers
from leeway.worker.pipeline.micro_batches import micro_batches
from leeway.worker.pipeline.randomness import forward_seed, seeded
from leeway.worker.pipeline.schedules import SCHEDULES
from leeway.worker.pipeline.stage import build
from tests.worker.pipeline.models import kinds, on_meta
from tests.worker.pipeline.near import Pipeline, closely, exactly

CUTS = {1: lambda n: (n,), 2: lambda n: (n // 2, n - n // 2), 3: lambda n: (1, n - 2, 1), 4: lambda n: (1, 1, 1, n - 3)}
SEED, RANK = 5, "w0"


@pytest.fixture(autouse=True)
def one_thread():
    """Stages are threads here: they would share the two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def whole(kind):
    """The unsplit model with the initial values of the pipeline."""
    layers = Layers(on_meta(kind.make)(), kind.blocks)
    values = build(layers, (len(layers),), 0, SEED).module.state_dict()
    model = kind.make()
    model.load_state_dict(values)
    return model


def plain(kind, model, count, *, number=0, inputs=None, targets=None):
    """A loop over the same micro-batches, each weighted by its samples: the model as its author runs it.

    Its layers draw from the seeds that the pipeline has, set by hooks.
    """
    micro_batch = 0
    for layer in Layers(model, kind.blocks).layers:

        def before(module, _, index=layer.index):
            torch.manual_seed(forward_seed(SEED, RANK, index, number, micro_batch))

        layer.module.register_forward_pre_hook(before)
    inputs = micro_batches(kind.inputs if inputs is None else inputs, count, "inputs")
    targets = micro_batches(kind.targets if targets is None else targets, count, "targets")
    total = sum(map(len, inputs))
    mean = 0.0
    with seeded(0, torch.device("cpu")):
        for micro_batch, (some, wanted) in enumerate(zip(inputs, targets, strict=True)):  # noqa: B007 (the hooks see it)
            loss = kind.loss(model(some.clone()), wanted)
            (loss * (len(some) / total)).backward()
            mean += loss.item() * len(some) / total
    return mean, {name: parameter.grad for name, parameter in model.named_parameters()}, dict(model.named_buffers())


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("stages", CUTS)
@pytest.mark.parametrize("name", kinds())
def test_loss_gradients_and_buffers_are_those_of_the_unsplit_model(name, stages, schedule):
    kind = kinds()[name]
    model = whole(kind)
    sizes = CUTS[stages](len(Layers(model, kind.blocks)))
    for count in (1, 4, 10):  # 10 samples in 4: 3, 3, 2, 2
        reference = copy.deepcopy(model)
        loss, gradients, buffers = plain(kind, reference, count)
        for recompute in (False, True):
            pipeline = Pipeline(on_meta(kind.make), sizes, loss=kind.loss, recompute=recompute)
            outcomes = pipeline.train(schedule, count, kind.inputs, kind.targets)
            assert outcomes[-1].loss == pytest.approx(loss, rel=1e-6)
            assert closely(pipeline.gradients(), gradients)
            assert closely(pipeline.buffers(), buffers)
            assert {outcome.samples for outcome in outcomes} == {10}
            held = [schedule.held(stage, stages, count) for stage in range(stages)]
            assert [outcome.in_flight for outcome in outcomes] == held


class Scale(nn.Module):
    """Elements alone, no sums: whatever the machine, the same numbers lead to the same bits."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(6))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.uniform_(self.weight)

    def forward(self, inputs):
        return inputs * self.weight


def masked():
    return nn.Sequential(Scale(), nn.Dropout(0.5), Scale(), nn.Dropout(0.4), nn.Dropout(0.3), Scale())


def test_dropout_masks_are_the_same_split_recomputed_and_whole():
    inputs = torch.rand(9, 6)
    found = []
    for sizes in ((6,), (1, 1, 4), (2, 2, 2), (3, 3)):
        for schedule in SCHEDULES.values():
            for recompute in (False, True):
                pipeline = Pipeline(on_meta(masked), sizes, loss=lambda output, _: output.mean(), recompute=recompute)
                loss = pipeline.train(schedule, 4, inputs, torch.zeros(9), number=7)[-1].loss
                found.append((loss, pipeline.gradients()))
    for loss, gradients in found[1:]:
        assert loss == found[0][0]
        assert exactly(gradients, found[0][1])


def test_dropout_masks_differ_by_iteration_micro_batch_rank_and_layer():
    def run(number, rank):
        make = lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Dropout(0.5))  # noqa: E731
        pipeline = Pipeline(make, (2, 1), loss=lambda output, _: output.sum(), rank=rank)
        ones = nn.init.ones_, nn.init.zeros_
        for start, parameter in zip(ones, pipeline.stages[0].module.parameters(), strict=True):
            start(parameter)
        pipeline.train(SCHEDULES["1f1b"], 2, torch.ones(8, 4), torch.zeros(8), number)
        return pipeline.gradients()["0.bias"], pipeline.computing[-1].losses

    one, losses = run(0, "w0")
    assert torch.equal(one, run(0, "w0")[0])
    assert not torch.equal(one, run(1, "w0")[0])
    assert not torch.equal(one, run(0, "w1")[0])
    assert losses[0] != losses[1]


def test_micro_batches_of_any_sizes_given_as_a_list():
    kind = kinds()["cnn"]
    inputs, targets = list(kind.inputs.split([5, 2, 3])), list(kind.targets.split([5, 2, 3]))
    loss, gradients, buffers = plain(kind, whole(kind), 3, inputs=inputs, targets=targets)
    pipeline = Pipeline(on_meta(kind.make), (3, 5), loss=kind.loss)
    outcomes = pipeline.train(SCHEDULES["1f1b"], 3, inputs, targets)
    assert outcomes[-1].loss == pytest.approx(loss, rel=1e-6)
    assert closely(pipeline.gradients(), gradients)
    assert closely(pipeline.buffers(), buffers)


def test_weights_and_the_script_s_own_randomness_are_left_alone():
    kind = kinds()["transformer"]
    pipeline = Pipeline(on_meta(kind.make), (2, 3), loss=kind.loss)
    before = {name: tensor.clone() for name, tensor in pipeline.values().items()}
    state = torch.get_rng_state()
    pipeline.train(SCHEDULES["gpipe"], 4, kind.inputs, kind.targets)
    assert torch.equal(torch.get_rng_state(), state)
    assert exactly(pipeline.values(), before)


@pytest.mark.parametrize("name", kinds())
def test_evaluation_is_that_of_the_unsplit_model_and_changes_nothing(name):
    kind = kinds()[name]
    model = whole(kind).eval()
    pipeline = Pipeline(on_meta(kind.make), (2, len(Layers(kind.make())) - 2), loss=kind.loss)
    pipeline.train(SCHEDULES["1f1b"], 2, kind.inputs, kind.targets)
    model.load_state_dict(pipeline.values())
    gradients = {key: tensor.clone() for key, tensor in pipeline.gradients().items()}
    with torch.no_grad():
        outputs = model(kind.inputs.clone())
        loss = kind.loss(outputs, kind.targets).item()
    assert pipeline.evaluate(3, kind.inputs, kind.targets)[-1].loss == pytest.approx(loss, rel=1e-5)
    found = pipeline.evaluate(3, kind.inputs)[-1]
    assert found.loss is None
    torch.testing.assert_close(torch.cat(found.outputs), outputs)
    assert exactly(pipeline.values(), dict(model.state_dict()))
    assert exactly(pipeline.gradients(), gradients)
    assert all(part.training for stage in pipeline.stages for part in stage.module.modules())


def test_several_iterations_with_steps_between_them():
    kind = kinds()["transformer"]
    model = whole(kind)
    pipeline = Pipeline(on_meta(kind.make), (1, 2, 2), loss=kind.loss)
    for number in range(3):
        model.zero_grad()
        loss, gradients, _ = plain(kind, model, 4, number=number)
        assert pipeline.train(SCHEDULES["1f1b"], 4, kind.inputs, kind.targets, number)[-1].loss == pytest.approx(loss)
        assert closely(pipeline.gradients(), gradients)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
            shared = dict(model.named_parameters())
            for stage in pipeline.stages:  # as a pull does
                for name, parameter in stage.module.named_parameters():
                    parameter.copy_(shared[name])
        for layer in Layers(model).layers:
            layer.module._forward_pre_hooks.clear()
