import numpy as np
import pytest
import torch

from leeway.errors import DataError
from leeway.worker.train.data import mnist
from leeway.worker.train.data.source import Labelled
from leeway.worker.train.tasks.mnist import Mnist

CPU = torch.device("cpu")


@pytest.fixture
def tiny(monkeypatch):
    """Six made images in place of the files."""
    images = np.zeros((6, 28, 28), np.uint8)
    images[1] = 255
    part = Labelled(images, np.arange(6, dtype=np.uint8))
    monkeypatch.setattr(mnist, "load", lambda data_dir: (part, part))


@pytest.mark.parametrize(("name", "parameters"), [(None, 199_210), ("2nn", 199_210), ("cnn", 1_663_370)])
def test_the_models_are_those_of_the_paper(tiny, tmp_path, name, parameters):
    task = Mnist(tmp_path, name)
    model = task.model(0)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    inputs, targets = task.batch(np.arange(4), CPU)
    assert model(inputs).shape == (4, 10)
    assert targets.tolist() == [0, 1, 2, 3]


def test_pixels_are_standardised(tiny, tmp_path):
    inputs, _ = Mnist(tmp_path).batch(np.array([0, 1]), CPU)
    assert inputs.shape == (2, 1, 28, 28)
    assert inputs[0].unique().tolist() == pytest.approx([-0.1307 / 0.3081])
    assert inputs[1].unique().tolist() == pytest.approx([0.8693 / 0.3081])


def test_without_the_files_the_error_says_which(tmp_path):
    with pytest.raises(DataError, match="train-images"):
        Mnist(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(("name", "steps", "accuracy"), [("2nn", 200, 0.85), ("cnn", 20, 0.3)])
def test_training_learns(published, training, name, steps, accuracy):
    task = Mnist(published("mnist"), name)
    task._test = Labelled(*(column[:1_000] for column in task._test))
    before, after = training(task, learning_rate=0.1, batch_size=32, steps=steps)
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > accuracy
