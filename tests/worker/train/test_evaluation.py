"""Evaluation in the middle of training: what it finds, and that training does not notice."""

import copy

import pytest
import torch
from structlog.testing import capture_logs
from torch import nn

from leeway.protocol import limits
from leeway.worker.train.evaluation import Evaluation

CPU = torch.device("cpu")


class Held:
    """A task whose evaluation draws random numbers, as one with augmented test data would."""

    def __init__(self, **figures):
        self.figures = figures
        self.seen = []

    def evaluate(self, model, device):
        noise = torch.rand(1).item()
        self.seen.append((model(torch.ones(4, 3)).sum().item(), noise, model.training))
        return self.figures


@pytest.fixture
def model():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    net.train()
    net[2].eval()  # a user's own choice
    return net


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6])])
def test_when_it_is_due(model, every, due):
    evaluation = Evaluation(Held(), model, CPU, every)
    assert [clock for clock in range(7) if evaluation.due(clock)] == due


def test_training_does_not_notice(model):
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    expected = torch.rand(3)
    task = Held(loss=0.25)
    torch.manual_seed(1)
    assert Evaluation(task, model, CPU, 1).run() == {"loss": 0.25}
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert task.seen[0][2] is False


def test_the_model_is_evaluated_as_it_would_be_used(model):
    task = Held()
    evaluation = Evaluation(task, model, CPU, 1)
    evaluation.run()
    model.eval()
    assert task.seen[0][0] == pytest.approx(model(torch.ones(4, 3)).sum().item())


def test_that_nothing_is_held_out_is_told_once(model):
    evaluation = Evaluation(Held(), model, CPU, 1)
    with capture_logs() as logs:
        assert [evaluation.run() for _ in range(2)] == [{}, {}]
    (line,) = logs
    assert line["detail"] == "no samples are held out among those that this worker has read"


def test_what_is_reported_is_named_and_bounded(model):
    evaluation = Evaluation(Held(loss=1, accuracy=0.5), model, CPU, 1)
    assert evaluation.reported() == {}
    evaluation.run()
    assert evaluation.reported() == {"test_loss": 1.0, "test_accuracy": 0.5}
    evaluation.forget()
    assert evaluation.reported() == {}
    many = Evaluation(Held(**{f"figure{number}": 0.0 for number in range(100)}), model, CPU, 1)
    many.run()
    # With the loss of the batch a push is full then.
    assert len(many.reported()) == limits.MAX_REPORTED_METRICS - 1
