import numpy as np
import pytest
import torch

from leeway.errors import DataError
from leeway.worker.train.data import libsvm
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.a9a import A9a

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    """Four made rows in place of the files."""
    inputs = np.zeros((4, 123), np.float32)
    inputs[:, 0] = [0, 0, 1, 1]
    part = Labelled(inputs, np.array([0, 1, 1, 1], np.uint8))
    monkeypatch.setattr(libsvm, "load_a9a", lambda data_dir: (part, part))


def test_loss_and_accuracy_are_those_of_logistic_regression(tiny, tmp_path):
    task = A9a(tmp_path)
    model = task.model(0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 124
    with torch.no_grad():
        model.weight.zero_()
        model.weight[0, 0] = 3.0
        model.bias.fill_(-1.0)
    # Log-odds -1 -1 2 2 for the labels 0 1 1 1: three right.
    losses = np.log1p(np.exp([-1.0, 1.0, -2.0, -2.0]))
    result = task.evaluate(model, CPU)
    assert result == {"loss": pytest.approx(losses.mean(), rel=1e-6), "accuracy": 0.75}
    inputs, targets = task.batch(np.arange(4), CPU)
    assert task.loss(model, inputs, targets).item() == pytest.approx(losses.mean(), rel=1e-6)


def test_without_the_files_the_error_says_which(tmp_path):
    with pytest.raises(DataError, match="ps-data get a9a"):
        A9a(tmp_path)


@pytest.mark.data
def test_training_beats_saying_no(published, training):
    task = A9a(published("a9a"))
    before, after = training(task, learning_rate=0.5, batch_size=100, steps=300)
    assert after["loss"] < 0.37 < before["loss"]
    assert after["accuracy"] > 0.82
